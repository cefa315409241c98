"""What a wrong f costs: the tables of docs/choosing-f.md.

    python benchmarks/choosing_f.py            # vectors: seconds
    python benchmarks/choosing_f.py --train    # the quickstart as well: about an hour on two cores

Vectors: 20 clients whose honest updates share a direction and differ by client (heterogeneity) and
by chance. A cell is the worst error over the attacks, ||F - honest mean||² over the mean squared
deviation of the honest, averaged over seeds. 0.03 is what leaving out a few honest clients costs
by itself.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import _path  # noqa: F401  before anything of ours
import torch
from torch import Tensor

import aggregators
import attacks

N, D, SEEDS = 20, 500, 20
ATTACKS = {
    "sign_flip x10": ("sign_flip", {"scale": 10.0}),
    "ipm 0.5": ("ipm", {"epsilon": 0.5}),
    "ipm 2": ("ipm", {"epsilon": 2.0}),
    "alie 1.5": ("alie", {"z": 1.5}),
}
RULES = {
    "nnm + trimmed_mean": {"name": "trimmed_mean", "mixing": ("nnm",)},
    "nnm + geometric_median": {"name": "geometric_median", "mixing": ("nnm",)},
    "krum": {"name": "krum"},
    "trimmed_mean": {"name": "trimmed_mean"},
}
LIARS = (0, 2, 4, 6)


def honest_updates(liars: int, seed: int) -> Tensor:
    """Updates of the honest: a shared direction, a part of the client's own, and noise."""
    draw = torch.Generator().manual_seed(seed)
    shared = torch.randn(D, generator=draw)
    own = torch.randn(N - liars, D, generator=draw)
    return shared + own * torch.linspace(0.5, 1.5, N - liars)[:, None]


def error(rows: Tensor, honest: Tensor, f: int, how: dict) -> float:
    """Squared error against the honest mean, in units of the honest spread."""
    mean = honest.mean(dim=0)
    spread = (honest - mean).square().sum(dim=1).mean()
    got = aggregators.aggregate(rows, f=f, **how)
    return float((got - mean).square().sum() / spread)


def worst(liars: int, f: int, how: dict) -> float:
    """The worst attack's error, averaged over seeds."""
    errors = {}
    for name, (attack, options) in ATTACKS.items():
        errors[name] = []
        for seed in range(SEEDS):
            honest = honest_updates(liars, seed)
            rows = honest
            if liars:
                lies = attacks.craft(honest, attack, num_attackers=liars, **options)
                rows = torch.cat([honest, lies])
            errors[name].append(error(rows, honest, f, how))
    return max(statistics.mean(each) for each in errors.values())


def largest_gap(rows: Tensor) -> int:
    """An estimate of f by eye: sort the distances to the median, cut at the widest ratio.

    The obvious way to find f, measured here to show where it fails.
    """
    center = rows.median(dim=0).values
    distances = (rows - center).norm(dim=1).sort().values
    upper = distances[N // 2 :]
    ratios = upper[1:] / upper[:-1]
    place = int(ratios.argmax())
    return N - (N // 2 + place + 1) if float(ratios[place]) > 1.5 else 0


def print_vectors() -> None:
    """Assumed f down, real liars across."""
    print(f"n={N}, d={D}, {SEEDS} seeds; worst of {', '.join(ATTACKS)}\n")
    for rule, how in RULES.items():
        plan = aggregators.plan(how["name"], mixing=how.get("mixing", ()))
        print(f"### {rule}\n\n| assumed f | " + " | ".join(f"{b} liars" for b in LIARS) + " |")
        print("|---" * (len(LIARS) + 1) + "|")
        for f in (0, 1, 2, 3, 4, 6, 8, 9):
            try:
                plan.check_clients(N, f)
            except ValueError:
                continue
            cells = [f"{worst(liars, f, how):.3g}" for liars in LIARS]
            print(f"| {f} | " + " | ".join(cells) + " |")
        print()


def print_gap() -> None:
    """What the obvious estimate of f says under each attack."""
    print("### f estimated by the largest gap\n\n| attack | 2 liars | 4 liars | 6 liars |")
    print("|---|---|---|---|")
    for name, (attack, options) in ATTACKS.items():
        cells = []
        for liars in LIARS[1:]:
            found = []
            for seed in range(SEEDS):
                honest = honest_updates(liars, seed)
                lies = attacks.craft(honest, attack, num_attackers=liars, **options)
                found.append(largest_gap(torch.cat([honest, lies])))
            cells.append(f"{min(found)} to {max(found)}")
        print(f"| {name} | " + " | ".join(cells) + " |")
    print()


def final_loss(f: int, attack: str, root: Path) -> float:
    """Held-out loss of the quickstart at an assumed f; a finished run is read, not run again."""
    from fedtune.recipe import load_recipe
    from fedtune.records.folder import RunFolder
    from fedtune.runs.engines import execute

    folder = RunFolder(root / f"f{f}-{attack.split(',')[0].strip('{').replace(': ', '-')}")
    if not folder.adapter.is_dir():
        recipe = load_recipe(
            "quickstart",
            [f"aggregator.f={f}", f"attack={attack}", f"output_dir={folder.path}",
             "evaluation.every=1000", "evaluation.samples=0", "evaluation.per_client=false"],
        )  # fmt: skip
        if folder.recipe.is_file():
            folder, recipe = RunFolder.open(folder.path)
        else:
            folder, recipe = RunFolder.create(recipe)
        execute(recipe, folder)
    return folder.read_metrics()[-1]["eval"]["loss"]


def print_training(root: Path) -> None:
    """The quickstart's rule at every f, with no liar and with two of ten."""
    sections = {
        "no liar": "null",
        "2 x sign_flip, scale 10": "{name: sign_flip, scale: 10, num_attackers: 2}",
        "2 x alie, z 1.5": "{name: alie, z: 1.5, num_attackers: 2}",
    }
    print("### the quickstart, nnm + trimmed_mean: held-out loss\n")
    print("| assumed f | " + " | ".join(sections) + " |\n" + "|---" * (len(sections) + 1) + "|")
    for f in range(5):
        cells = [f"{final_loss(f, attack, root):.3f}" for attack in sections.values()]
        print(f"| {f} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/choosing_f"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    print_vectors()
    print_gap()
    if args.train:
        print_training(args.out)


if __name__ == "__main__":
    main()
