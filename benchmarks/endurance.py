"""Five hundred rounds over the network: does memory, or the number of open files, grow?

    python benchmarks/endurance.py                # three nodes here, about an hour
    python benchmarks/endurance.py --rounds 50

Every process of the federation is looked at after each round from the twentieth on: resident
memory, and open files. Printed is the slope of a line through them, by least squares, with its 95 %
interval, for a hundred rounds; and what a round adds to the run folder and to a node's folder.
"""

from __future__ import annotations

import argparse
import os
import platform
import socket
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import _path  # noqa: F401  before anything of ours
import numpy as np
import psutil

from fedtune.deployment.folder import DeploymentFolder
from fedtune.recipe import load_recipe
from fedtune.records.events import Event, RoundFinished
from fedtune.records.folder import RunFolder
from fedtune.runs.engines import execute
from fedtune.transport.flower.deployment_rehearsal import rehearse

SETTLED = 20  # rounds until libraries have loaded all that they load late
ROLES = {  # a word of the command line, and who that is
    "link.gated": "SuperLink",
    "link.guard server": "server",
    "link.node_worker": "worker of a node",
    "flower-supernode": "SuperNode",
}
TINY = (
    "federation.local_steps=1",
    "train.per_device_train_batch_size=1",
    "evaluation={every: 100000, max_rows: 8, samples: 0, per_client: false}",
)


class Watch:
    """Notes memory and open files of every lasting process after each round."""

    def __init__(self, pids: list[int], folders: dict[str, Path]) -> None:
        self._pids, self._folders = pids, folders
        self.rounds: dict[str, list[int]] = defaultdict(list)
        self.memory: dict[str, list[float]] = defaultdict(list)
        self.files: dict[str, list[int]] = defaultdict(list)
        self.bytes: dict[str, list[int]] = defaultdict(list)

    def __call__(self, event: Event) -> None:
        """An observer."""
        if not isinstance(event, RoundFinished):
            return
        number = event.record.round
        if number % 50 == 0:
            print(f"round {number}", file=sys.stderr)
        for name, folder in self._folders.items():
            sizes = (file.stat().st_size for file in folder.rglob("*") if file.is_file())
            self.bytes[name].append(sum(sizes))
        if number <= SETTLED:
            return
        for pid in self._pids:
            for process in psutil.Process(pid).children(recursive=True):
                try:
                    words = " ".join(process.cmdline())
                    role = next((ROLES[word] for word in ROLES if word in words), None)
                    if role is not None:
                        key = f"{role} {process.pid}"
                        self.memory[key].append(process.memory_info().rss / 1e6)
                        self.files[key].append(process.num_fds())
                        self.rounds[key].append(number)
                except psutil.NoSuchProcess:
                    continue


def slope(rounds: list[int], values: list[float]) -> tuple[float, float]:
    """Least squares: growth in a hundred rounds, and half of its 95 % interval."""
    x, y = np.array(rounds, dtype=float), np.array(values, dtype=float)
    x -= x.mean()
    spread = (x**2).sum()
    found = (x * y).sum() / spread
    rest = y - y.mean() - found * x
    error = np.sqrt((rest**2).sum() / (len(x) - 2) / spread)
    return 100 * found, 196 * error


def main() -> None:
    """Run it, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=500)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with socket.create_server(("127.0.0.1", 0)) as asked:
            port = asked.getsockname()[1]
        fed = DeploymentFolder.create(folder / "fed", 3, "127.0.0.1", port)
        keys = [*TINY, f"federation.num_rounds={rounds}", f"federation.deployment={fed.path}",
                f"output_dir={folder / 'run'}"]  # fmt: skip
        with rehearse(fed, say=lambda line: print(line, file=sys.stderr)) as processes:
            run, recipe = RunFolder.create(load_recipe("three_nodes", keys))
            folders = {"run folder": run.path, "a node's folder": fed.node_folders[0]}
            watch = Watch([each.pid for each in processes.values()], folders)
            execute(recipe, run, watch)
    print("| process | rounds seen | MB first | MB last | MB in 100 rounds | open files in 100 |")
    print("|---|---|---|---|---|---|")
    for key in sorted(watch.memory):
        seen = watch.rounds[key]
        if len(seen) < rounds // 2:
            continue  # a process of one message
        grows, half = slope(seen, watch.memory[key])
        files, _ = slope(seen, [float(each) for each in watch.files[key]])
        first, last = watch.memory[key][0], watch.memory[key][-1]
        who = key.rsplit(" ", 1)[0]
        print(f"| {who} | {len(seen)} | {first:.0f} | {last:.0f} | {grows:+.2f} ± {half:.2f} "
              f"| {files:+.2f} |")  # fmt: skip
    for name, sizes in watch.bytes.items():
        a_round = (sizes[-1] - sizes[SETTLED]) / (len(sizes) - 1 - SETTLED)
        print(f"\n{name}: {a_round:.0f} bytes a round, {sizes[-1] / 1e6:.1f} MB at the end")
    print(f"\n{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")


if __name__ == "__main__":
    main()
