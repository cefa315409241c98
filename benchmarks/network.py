"""What a round over the network costs beyond its training, beside an empty Flower app.

    python benchmarks/network.py                   # three nodes on this machine, over TLS
    python benchmarks/network.py --rounds 20

All of it runs on loopback: a SuperLink, three nodes, and recipes/three_nodes.yaml with one step a
round. Of each round the longest training of a node is taken off, as its worker has logged it. The
empty app sends an empty message to three nodes of a plain SuperLink without TLS and gets an empty
one back: what Flower takes for a round of nothing, with a process for each message. First round:
from the start of the run to the end of its first round, with the nodes up.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import _path  # noqa: F401  before anything of ours

EMPTY = {
    "pyproject.toml": """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "empty"
version = "1.0.0"
description = "Empty messages there and back."
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "fedtune"
[tool.flwr.app.components]
serverapp = "empty:server"
clientapp = "empty:client"
[tool.flwr.app.config]
out = ""
rounds = 1
""",
    "empty.py": """\
import time
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
client, server = ClientApp(), ServerApp()
@client.train()
def train(message, context):
    return Message(RecordDict(), reply_to=message)
@server.main()
def main(grid, context):
    while len(nodes := list(grid.get_node_ids())) < 3:
        time.sleep(0.1)
    for _ in range(int(context.run_config["rounds"])):
        began = time.monotonic()
        messages = [Message(RecordDict(), node, "train") for node in nodes]
        assert len(list(grid.send_and_receive(messages))) == 3
        with Path(context.run_config["out"]).open("a") as stream:
            stream.write(f"{time.monotonic() - began}\\n")
""",
}
ONE_STEP = (
    "federation.local_steps=1",
    "evaluation.every=1000",
    "evaluation.samples=0",
    "evaluation.max_rows=16",
    "evaluation.per_client=false",
)


def free_port() -> int:
    """A port of loopback that no one listens on."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


def empty_rounds(folder: Path, rounds: int) -> list[float]:
    """Seconds of each round of the empty app on a plain SuperLink with three plain nodes."""
    from flwr.cli.build import build_fab_from_files
    from flwr.supercore.fab import Fab

    from fedtune.transport.flower.control import FINISHED, Control

    port, out = free_port(), folder / "empty.txt"
    content, _ = build_fab_from_files({name: text.encode() for name, text in EMPTY.items()})
    with plain_flower(folder, port), Control(f"127.0.0.1:{port}", None) as control:
        wait_for(lambda: control.nodes() is not None)
        config = {"out": str(out), "rounds": str(rounds)}
        run_id = control.start_run(Fab("", content, {}), config)
        wait_for(lambda: control.state_of(run_id).status == FINISHED)
    return [float(line) for line in out.read_text().splitlines()]


def wait_for(holds: Any, patience_s: float = 180.0) -> None:
    """Ask until it holds."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        try:
            if holds():
                return
        except Exception:
            pass
        time.sleep(0.2)
    raise TimeoutError("the plain Flower app did not come to its end")


@contextmanager
def plain_flower(folder: Path, port: int) -> Iterator[None]:
    """Flower's own SuperLink and three of its SuperNodes, without TLS and keys."""
    environment = {
        **os.environ,
        "FLWR_HOME": str(folder / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    link = ["flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port)]
    node = ["flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}"]
    commands = [link] + [
        [*node, "--host", "127.0.0.1", "--port", str(free_port()), "--node-config", f"n={number}"]
        for number in range(3)
    ]
    with (folder / "plain.log").open("ab") as log:
        started = [
            subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            for command in commands
        ]
        try:
            yield
        finally:
            for process in reversed(started):
                process.terminate()
            for process in started:
                process.wait(30)


def our_rounds(folder: Path, rounds: int) -> tuple[list[float], float]:
    """Seconds of each round beyond its training, and of the first round with all before it."""
    from fedtune.deployment.folder import DeploymentFolder
    from fedtune.recipe import load_recipe
    from fedtune.records.events import RoundFinished
    from fedtune.records.folder import RunFolder
    from fedtune.runs.engines import execute
    from fedtune.transport.flower.deployment_rehearsal import rehearse

    made = DeploymentFolder.create(folder / "fed", 3, "127.0.0.1", free_port())
    first: list[float] = []
    with rehearse(made, say=lambda line: print(line, file=sys.stderr)):
        began = time.monotonic()

        def observe(event: object) -> None:
            if isinstance(event, RoundFinished) and not first:
                first.append(time.monotonic() - began)

        keys = [*ONE_STEP, f"federation.num_rounds={rounds}", f"federation.deployment={made.path}",
                f"output_dir={folder / 'run'}"]  # fmt: skip
        run, recipe = RunFolder.create(load_recipe("three_nodes", keys))
        execute(recipe, run, observe)
    took = {each["round"]: each["round_s"] for each in run.read_metrics() if each["round"] > 0}
    trained: dict[int, float] = {}
    for node in made.node_folders:
        log = (node / "run" / "worker.log").read_text()
        for number, seconds in re.findall(r"^train (\d+): ([\d.]+) s$", log, re.MULTILINE):
            trained[int(number)] = max(trained.get(int(number), 0.0), float(seconds))
    # The first round loads rows and the recipe's modules: it is told of by itself.
    return [took[number] - trained[number] for number in sorted(took) if number > 1], first[0]


def main() -> None:
    """Run both, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        empty = empty_rounds(folder, args.rounds)[1:]
        ours, first = our_rounds(folder, args.rounds)
    print("| a round of three nodes | median | slowest |")
    print("|---|---|---|")
    print(f"| empty Flower app, no TLS | {statistics.median(empty):.2f} s | {max(empty):.2f} s |")
    print(f"| fedtune beyond training, TLS | {statistics.median(ours):.2f} s | {max(ours):.2f} s |")
    print(f"| difference | {statistics.median(ours) - statistics.median(empty):.2f} s | |")
    where = f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    print(
        f"\nFirst round done {first:.1f} s after the run's start. {len(ours)} rounds each; {where}"
    )


if __name__ == "__main__":
    main()
