"""What product geometry costs, and whether momentum harms it: tables of docs/results/geometry.md.

    python benchmarks/geometry.py            # cost: a minute
    python benchmarks/geometry.py --momentum # outer optimizers on products: ten minutes

What it buys is measured by `fedtune bench bench_geometry`.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import _path  # noqa: F401  before anything of ours
import torch
from torch import Tensor

from aggregators.engine.gram import gram
from aggregators.geometry import Factors, Module, combine_products, product_gram

SIZES = {  # n, d_out = d_in, r
    "n=10, 1024 x 1024, r=8": (10, 1024, 8),
    "n=20, 4096 x 4096, r=16": (20, 4096, 16),
    "n=100, 2048 x 2048, r=8": (100, 2048, 8),
    "n=100, 4096 x 4096, r=16": (100, 4096, 16),
}
OUTER = {
    "fedavg": "{name: fedavg}",
    "nesterov, momentum 0.5": "{name: nesterov, lr: 0.7, momentum: 0.5}",
    "nesterov, momentum 0.9": "{name: nesterov, lr: 0.7, momentum: 0.9}",
}
GEOMETRIES = {
    "factors": "{name: mean}",
    "product": "{name: mean, geometry: product}",
}


def seconds(calls: dict[str, Callable[[], object]], repeats: int = 5) -> dict[str, float]:
    """CPU seconds of each call, medians of calls in turn."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            started = time.process_time()
            call()
            found[name].append(time.process_time() - started)
    return {name: statistics.median(values[1:]) for name, values in found.items()}


def cost(n: int, size: int, rank: int) -> dict[str, float]:
    """One module's Gram in both geometries, by dense matrices, and the products that it needs."""
    columns = rank * size
    module = Module(a=(0, columns), b=(columns, 2 * columns), rank=rank, scale=2.0)
    factors = Factors((module,), (), 2 * columns)
    draw = torch.Generator().manual_seed(0)
    anchor = torch.randn(2 * columns, generator=draw)
    rows = 0.1 * torch.randn(n, 2 * columns, generator=draw)
    stacked = torch.randn(size, (n + 1) * rank, generator=draw, dtype=torch.float64)
    weights = torch.full((n,), 1 / n, dtype=torch.float64)

    def products() -> Tensor:
        return (stacked.T @ stacked) * (stacked.T @ stacked)

    def dense() -> Tensor:
        b, a = anchor[columns:].view(size, rank), anchor[:columns].view(rank, size)
        changes = torch.stack(
            [
                (
                    (b + row[columns:].view(size, rank)) @ (a + row[:columns].view(rank, size))
                    - b @ a
                ).flatten()
                for row in rows
            ]
        )
        return changes @ changes.T

    calls: dict[str, Callable[[], object]] = {
        "product Gram": lambda: product_gram(rows, anchor, factors),
        "its two stacked products": products,
        "factor Gram": lambda: gram(rows),
        "exact combination": lambda: combine_products(
            rows, anchor, factors, weights, anchor=anchor, target=factors
        ),
    }
    if n * size * size * 4 < 3e9:
        calls["dense"] = dense
    return seconds(calls)


def print_cost() -> None:
    """The cost table, as Markdown."""
    torch.set_num_threads(1)
    print(
        "| one module | product Gram | x two products | x factor Gram | dense | exact combination |"
    )
    print("|---|---|---|---|---|---|")
    for name, (n, size, rank) in SIZES.items():
        took = cost(n, size, rank)
        ours = took["product Gram"]
        dense = f"{took['dense'] * 1e3:.0f} ms" if "dense" in took else "-"
        print(f"| {name} | {ours * 1e3:.1f} ms | {ours / took['its two stacked products']:.2f} | "
              f"{ours / took['factor Gram']:.1f} | {dense} | "
              f"{took['exact combination'] * 1e3:.0f} ms |")  # fmt: skip
    print(f"\nCPU time on one thread, {platform.machine()}, torch {torch.__version__}.\n")


def print_momentum(root: Path) -> None:
    """Ten honest clients under the mean: loss by outer optimizer and geometry, and what is cut."""
    from fedtune.recipe import load_recipe
    from fedtune.records.folder import RunFolder
    from fedtune.runs.engines import execute

    print("| outer | " + " | ".join(GEOMETRIES) + " |\n|---" + "|---" * len(GEOMETRIES) + "|")
    for outer, section in OUTER.items():
        cells = []
        for geometry, aggregator in GEOMETRIES.items():
            name = "".join(c if c.isalnum() else "_" for c in f"{outer}-{geometry}")
            folder = RunFolder(root / name)
            if not folder.adapter.is_dir():
                keys = [f"aggregator={aggregator}", f"outer={section}", "attack=null",
                        "evaluation.every=1000", "evaluation.samples=0",
                        "evaluation.per_client=false", f"output_dir={folder.path}"]  # fmt: skip
                folder, recipe = RunFolder.create(load_recipe("quickstart", keys))
                execute(recipe, folder)
            records = folder.read_metrics()
            most = max(record.get("discarded", 0.0) for record in records)
            cut = f" ({most:.2%})" if geometry != "factors" else ""
            cells.append(f"{records[-1]['eval']['loss']:.3f}{cut}")
        print(f"| {outer} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--momentum", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/geometry"))
    args = parser.parse_args()
    if args.momentum:
        print_momentum(args.out)
    else:
        print_cost()


if __name__ == "__main__":
    main()
