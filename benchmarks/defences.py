"""Which rule keeps the quickstart's gain when two of its ten clients lie: the README's table.

    python benchmarks/defences.py            # about half an hour on two cores
    python benchmarks/defences.py --seeds 3  # the mean over three seeds

Retained gain = (base - attacked) / (base - oracle); the oracle is the mean of the eight honest
clients alone, the liars absent, with the same seed. All runs share the recipe's outer optimizer.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from pathlib import Path

import _path  # noqa: F401  before anything of ours
import torch

from fedtune.federation.engines import execute
from fedtune.federation.folder import RunFolder
from fedtune.recipe import load_recipe

ATTACKS = {
    "no liar": "null",
    "sign_flip, scale 10": "{name: sign_flip, scale: 10, num_attackers: 2}",
    "alie, z 1.5": "{name: alie, z: 1.5, num_attackers: 2}",
}
RULES = {
    "mean": "{name: mean}",
    "krum": "{name: krum, f: 2}",
    "centered_clipping": "{name: centered_clipping, f: 2}",
    "nnm + geometric_median": "{name: geometric_median, f: 2, mixing: [nnm]}",
    "nnm + trimmed_mean": "{name: trimmed_mean, f: 2, mixing: [nnm]}",
}
ORACLE = ("{name: mean}", "{name: silence, num_attackers: 2}")


def losses(root: Path, aggregator: str, attack: str, seed: int) -> tuple[float, float]:
    """Base and final held-out loss of one run; a finished one is read, not run again."""
    name = "".join(c if c.isalnum() else "_" for c in f"{aggregator}{attack}{seed}")
    folder = RunFolder(root / name)
    if not folder.adapter.is_dir():
        recipe = load_recipe(
            "quickstart",
            [f"aggregator={aggregator}", f"attack={attack}", f"federation.seed={seed}",
             f"output_dir={folder.path}", "evaluation.every=1000", "evaluation.samples=0",
             "evaluation.per_client=false"],
        )  # fmt: skip
        if folder.recipe.is_file():
            folder, recipe = RunFolder.open(folder.path)
        else:
            folder, recipe = RunFolder.create(recipe)
        execute(recipe, folder)
    records = folder.read_metrics()
    return records[0]["eval"]["loss"], records[-1]["eval"]["loss"]


def main() -> None:
    """Run all cells that are not there yet, and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/defences"))
    args = parser.parse_args()
    cells: dict[tuple[str, str], list[tuple[float, float]]] = {}
    bases, oracles = [], []
    for seed in range(args.seeds):
        base, oracle = losses(args.out, *ORACLE, seed)
        bases.append(base)
        oracles.append(oracle)
        for rule, aggregator in RULES.items():
            for attack, section in ATTACKS.items():
                _, loss = losses(args.out, aggregator, section, seed)
                cell = (loss, (base - loss) / (base - oracle))
                cells.setdefault((rule, attack), []).append(cell)
                print(json.dumps({"seed": seed, "rule": rule, "attack": attack, "loss": loss}),
                      file=sys.stderr, flush=True)  # fmt: skip
    print(f"base {statistics.mean(bases):.3f}, oracle {statistics.mean(oracles):.3f} nats/token; "
          f"{args.seeds} seed(s); {platform.machine()}, torch {torch.__version__}\n")  # fmt: skip
    print("| rule | " + " | ".join(ATTACKS) + " |\n|---" * 1 + "|---" * len(ATTACKS) + "|")
    for rule in RULES:
        row = [cells[rule, attack] for attack in ATTACKS]
        text = [
            f"{statistics.mean(loss for loss, _ in cell):.3f} "
            f"({statistics.mean(kept for _, kept in cell):.0%})"
            for cell in row
        ]
        print(f"| {rule} | " + " | ".join(text) + " |")


if __name__ == "__main__":
    main()
