"""What a federation of liars does to reward models, DPO and GRPO: tables of docs/results/rlhf.md.

    python benchmarks/rlhf.py dpo                 # or reward, grpo
    python benchmarks/rlhf.py dpo --seeds 1       # a third of it
    python benchmarks/rlhf.py dpo --liars 2 3 4   # rows for two and for four of ten too

Local only: each client trains alone on its own rows, as many steps; the mean over the clients.
Pooled: one client holds all rows and takes the steps of all. Oracle: the honest clients alone under
the mean, liars absent. Liars flip their pairs (reward, dpo), or train for another reward (grpo).
Before training every margin of dpo is 0 up to rounding, and so its accuracy says nothing. Figures
are of held-out rows: 2,048 pairs, less the few that are too long, or 256 prompts answered greedily.
Runs are kept in --out: what is done is read, and the same command goes on. The gap to the oracle is
paired by seed, with its 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import _path  # noqa: F401  before anything of ours

FLIPS = {
    "all flipped": "{name: preference_flip, num_attackers: %d}",
    "clearest half flipped": "{name: preference_flip, mode: margin, rate: 0.5, num_attackers: %d}",
}
ATTACKS = {  # how the rows name a lie, and the lie
    "reward": FLIPS,
    "dpo": FLIPS,
    "grpo": {
        "reward negated": "{name: reward_flip, num_attackers: %d}",
        "reward hacked": "{name: reward_hack, num_attackers: %d}",
    },
}
FIGURES = {  # what the tables show: key, heading, how
    "reward": (("accuracy", "accuracy", "{:.1%}"), ("margin", "margin", "{:.3f}")),
    "dpo": (("rewards/accuracies", "accuracy", "{:.1%}"), ("rewards/margins", "margin", "{:.3f}")),
    "grpo": (("reward", "reward", "{:.3f}"), ("completion_words", "words", "{:.1f}")),
}
PAIRS = (  # a run of this size takes two or three minutes on a core
    "data.test_fraction=0.5",
    "evaluation.max_rows=2048",
    "train.per_device_train_batch_size=4",
)
HELD_OUT = {
    "reward": [*PAIRS],
    "dpo": [*PAIRS],
    "grpo": [  # less than this learns too little for a lie to take anything
        "evaluation.max_rows=256",
        "train.per_device_train_batch_size=32",
        "federation.num_rounds=6",
    ],
}
DEFAULT = "{name: caf, mixing: [agreement], f: %d, geometry: product}"


def runs(task: str, liars: list[int]) -> Iterator[tuple[str, list[str]]]:
    """Every row of the table: its name, and the keys laid over the task's recipe."""
    alone = ["attack=null", "aggregator={name: mean}"]
    pooled = ["federation.num_clients=1", "data.partition={by: iid}", "outer={name: fedavg}"]
    yield "pooled", [*alone, *pooled, "federation.local_steps=x10"]
    yield "local only", alone
    yield "federated, mean, no liar", alone
    yield "federated, default, no liar", ["attack=null", f"aggregator={DEFAULT % 3}"]
    for count in liars:
        silence = f"attack={{name: silence, num_attackers: {count}}}"
        yield f"oracle of {10 - count}", [silence, "aggregator={name: mean}"]
        for lie, section in ATTACKS[task].items():
            attack = f"attack={section % count}"
            yield f"{count} liars, {lie}, mean", [attack, "aggregator={name: mean}"]
            yield (
                f"{count} liars, {lie}, default",
                [attack, f"aggregator={DEFAULT % max(3, count)}"],
            )


def figures_of(job: tuple[str, str, list[str], int, str]) -> dict[str, Any]:
    """Base and final held-out figures of one run; a finished one is read, not run again."""
    task, name, keys, seed, root = job
    kept = Path(root) / task / f"{_plain(name)}-{seed}.json"
    if kept.is_file():
        found: dict[str, Any] = json.loads(kept.read_text())
        return found
    from fedtune.recipe import load_recipe
    from fedtune.training.memo import remembering

    recipe = load_recipe(f"{task}_nano")
    steps = recipe.federation.local_steps * 10
    fixed = [f"federation.seed={seed}", f"output_dir={root}/{task}/{_plain(name)}-{seed}",
             "evaluation.every=1000", "evaluation.samples=0", "evaluation.per_client=false",
             *HELD_OUT[task]]  # fmt: skip
    said = [key.replace("=x10", f"={steps}") for key in keys]
    recipe = load_recipe(f"{task}_nano", [*fixed, *said])
    _measure_once()
    with remembering(Path(root) / "client_rounds"):  # many rows begin with the same ones
        made = _alone(recipe) if name == "local only" else _together(recipe)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(made))
    return made


def _measure_once() -> None:
    """Rows of one seed share a worker, and begin with the same adapter: measure it for all."""
    from fedtune.training.worker import Worker

    if Worker.measure.__name__ == "once":
        return
    plain, known = Worker.measure, WeakKeyDictionary()

    def once(self: Worker, row: Any, *, client: int | None = None) -> Any:
        if client is not None or not row.equal(self.initial):
            return plain(self, row, client=client)
        if self not in known:
            known[self] = plain(self, row)
        return known[self]

    Worker.measure = once


def _together(recipe: Any) -> dict[str, Any]:
    from fedtune.records.folder import RunFolder
    from fedtune.runs.engines import execute

    folder, recipe = RunFolder.create(recipe)
    execute(recipe, folder)
    records = folder.read_metrics()
    return {"base": records[0]["eval"], "final": records[-1]["eval"]}


def _alone(recipe: Any) -> dict[str, Any]:
    from fedtune.training.worker import Worker

    worker, found = Worker(recipe), []
    for client in range(recipe.federation.num_clients):
        row = worker.initial
        for round_ in range(1, recipe.federation.num_rounds + 1):
            row = row + worker.train(row, client=client, round_=round_).delta
        found.append(worker.measure(row).as_dict())
    mean = {key: sum(each[key] for each in found) / len(found) for key in found[0]}
    return {"base": worker.measure(worker.initial).as_dict(), "final": mean}


def print_table(task: str, rows: dict[str, list[dict[str, Any]]]) -> None:
    """Mean over seeds, and the first figure's gap to the oracle with its interval, as Markdown."""
    from fedtune.attack_bench.interval import stat

    columns = FIGURES[task]
    print(f"| {task} | " + " | ".join(head for _, head, _ in columns) + " | minus the oracle |")
    print("|---" * (len(columns) + 2) + "|")
    shown = {"untrained": [{"final": each["base"]} for each in rows["pooled"]], **rows}
    for name, each in shown.items():
        cells = []
        for key, _, form in columns:
            values = [run["final"][key] for run in each]
            cells.append(form.format(sum(values) / len(values)))
        print(
            f"| {name} | " + " | ".join(cells) + f" | {_gap(name, each, rows, columns[0], stat)} |"
        )


def _gap(name: str, each: Any, rows: Any, column: Any, stat: Any) -> str:
    if " liars, " not in name:
        return ""
    oracle = rows[f"oracle of {10 - int(name.split()[0])}"]
    key, _, form = column
    gaps = {
        seed: run["final"][key] - best["final"][key]
        for seed, (run, best) in enumerate(zip(each, oracle, strict=True))
    }
    found = stat(gaps)
    half = "" if found.low is None else f" ± {form.format(found.high - found.mean)}"
    return form.replace("{:", "{:+").format(found.mean) + half


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)


def main() -> None:
    """Run what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=sorted(FIGURES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--liars", type=int, nargs="*", default=[3])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", default="runs/rlhf")
    args = parser.parse_args()
    table = list(runs(args.task, args.liars))
    jobs = [(args.task, name, keys, seed, args.out)
            for seed in range(args.seeds) for name, keys in table]  # fmt: skip
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        made = dict(
            zip([(job[1], job[3]) for job in jobs], pool.map(figures_of, jobs), strict=True)
        )
    rows = {name: [made[name, seed] for seed in range(args.seeds)] for name, _ in table}
    print_table(args.task, rows)
    print(f"\n{args.seeds} seed(s); {platform.machine()}, Python {platform.python_version()}")


if __name__ == "__main__":
    main()
