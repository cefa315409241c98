"""What defence.server_data costs on the quickstart, and what steps did to the server's loss.

    python benchmarks/trial.py                 # CPU seconds a round, about a minute
    python benchmarks/trial.py runs/quickstart # of a run with defence.server_data

The second prints, of each round's tries, by how much the loss on the server's rows changed.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from pathlib import Path

import _path  # noqa: F401  before anything of ours

from fedtune.recipe import load_recipe
from fedtune.training.process import get_worker

ROWS = 256


def read(folder: Path) -> None:
    """Print the trials of a run, and how many of its rounds were undone."""
    undone = rounds = 0
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        rounds, undone = record["round"], record.get("undone_rounds", undone)
        for each in record.get("trial", {}).get("tries", ()):
            change, scale = each["change"], each["scale"]
            print(f"round {rounds:3d} x{scale:<4g} {change:+.4f}" + ", undone" * each["undone"])
    print(f"{undone} of {rounds} rounds undone")


def cost() -> None:
    """Print the CPU seconds of a round's training and of its trial."""
    recipe = load_recipe("quickstart", [f"data.server_rows={ROWS}"])
    worker = get_worker(recipe.model_dump_json())

    def train() -> None:
        for client in range(recipe.federation.num_clients):
            worker.trainer.train(worker.initial, client=client, round_=1)

    def cpu(action) -> float:
        began = time.process_time()
        action()
        return time.process_time() - began

    def trial() -> None:
        worker.evaluator.server_loss(worker.initial)

    for action in (train, trial):  # rows are prepared at the first call
        cpu(action)
    trains, tries = cpu(train), min(cpu(trial) for _ in range(3))
    print(f"{platform.machine()}, {recipe.federation.threads_per_client} thread; {ROWS} rows")
    print(f"a round's training {trains:.2f} CPU s, its trial {tries:.2f}: {tries / trains:.0%}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        read(Path(sys.argv[1]))
    else:
        cost()
