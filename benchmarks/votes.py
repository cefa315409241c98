"""What defence.vote costs on the quickstart, and what attackers could make of a run's honest votes.

    python benchmarks/votes.py                 # CPU seconds a round, about a minute
    python benchmarks/votes.py runs/quickstart # of a run with defence.vote=true attack.votes=honest

The second prints, of each round's votes, the highest and the lowest median that any f voters could
have brought about, f as the record has it, or as it is given after the folder.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from pathlib import Path

import _path  # noqa: F401  before anything of ours

from fedtune.recipe import load_recipe
from fedtune.round.defence.candidate import MAX_CHANGE
from fedtune.round.defence.vote import median
from fedtune.training.process import get_worker


def bounds(changes: list[float], f: int) -> tuple[float, float]:
    """The lowest and highest median if any f of the votes were lies."""
    ordered = sorted(changes)
    low = median([-MAX_CHANGE] * f + ordered[: len(ordered) - f])
    return low, median(ordered[f:] + [MAX_CHANGE] * f)


def read(folder: Path, f: int | None) -> None:
    """Print what any f lies could make of each vote of a run."""
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        for each in record.get("vote", {}).get("tries", ()):
            lies = record["vote"]["f"] if f is None else f
            low, high = bounds(list(each["changes"].values()), lies)
            print(
                f"round {record['round']:3d} x{each['scale']:<4g} median {each['median']:+.4f}, "
                f"{lies} lies reach {low:+.4f} to {high:+.4f}" + ", undone" * each["undone"]
            )


def cost() -> None:
    """Print the CPU seconds of a round's training and of its votes."""
    recipe = load_recipe("quickstart")
    worker, clients = get_worker(recipe.model_dump_json()), range(recipe.federation.num_clients)

    def cpu(action) -> float:
        began = time.process_time()
        for client in clients:
            action(client)
        return time.process_time() - began

    def train(client, round_=1):
        worker.trainer.train(worker.initial, client=client, round_=round_)

    def vote(client):
        worker.evaluator.measure(worker.initial, client=client)

    for action in (train, vote):  # rows are prepared at the first call
        cpu(action)
    trains, votes = cpu(train), min(cpu(vote) for _ in range(3))
    rows = [len(part.test) for part in worker.data.parts.values()]
    print(f"{platform.machine()}, {recipe.federation.threads_per_client} thread; rows {rows}")
    print(f"a round's training {trains:.2f} CPU s, its votes {votes:.2f}: {votes / trains:.0%}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        read(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
    else:
        cost()
