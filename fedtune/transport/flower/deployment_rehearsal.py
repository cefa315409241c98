"""A whole deployment on one machine: SuperLink and nodes, by their own start scripts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from fedtune.deployment.folder import DeploymentFolder
from fedtune.transport.flower.control import Control

Say = Callable[[str], None]
_LOOK_S = 0.25
_END_S = 20.0
_ONLINE = "online"


class RehearsalError(RuntimeError):
    """Not all of it came up, or something ended by itself; the text names the log."""


@contextmanager
def rehearse(
    folder: DeploymentFolder, *, say: Say, patience_s: float = 120.0
) -> Iterator[Mapping[str, subprocess.Popen[bytes]]]:
    """Start a deployment, and end all of it when the block is left.

    Args:
        folder: As `fedtune deploy init` made it; logs go to its ``logs``.
        say: Told what happens, a line each.
        patience_s: How long all of it may take to come up.

    Yields:
        The processes by name: ``superlink``, and the nodes' names. All nodes are online.

    Raises:
        RehearsalError: If that does not happen.
    """
    logs = folder.path / "logs"
    logs.mkdir(mode=0o700, exist_ok=True)
    scripts = {"superlink": folder.server / "start.sh"}
    scripts |= {path.name: path / "start.sh" for path in folder.node_folders}
    environment = {**os.environ, "FEDTUNE_PYTHON": sys.executable}
    with ExitStack() as stack:
        processes: dict[str, subprocess.Popen[bytes]] = {}
        stack.callback(_end, processes)
        for name, script in scripts.items():
            log = stack.enter_context((logs / f"{name}.log").open("ab"))
            processes[name] = subprocess.Popen(
                [str(script)], env=environment, stdout=log, stderr=log, start_new_session=True
            )
        _wait_until_online(folder, processes, say, patience_s)
        yield processes


def watch(processes: Mapping[str, subprocess.Popen[bytes]], logs: Path) -> None:
    """Wait until one ends by itself.

    Raises:
        RehearsalError: Naming it.
    """
    while True:
        _refuse_ended(processes, logs)
        time.sleep(_LOOK_S)


def _wait_until_online(
    folder: DeploymentFolder,
    processes: Mapping[str, subprocess.Popen[bytes]],
    say: Say,
    patience_s: float,
) -> None:
    deadline, logs, seen = time.monotonic() + patience_s, folder.path / "logs", -1
    with Control(folder.local_address, folder.ca) as control:
        while True:
            _refuse_ended(processes, logs)
            online = _online(control, folder)
            if online != seen and online >= 0:
                seen = online
                say(f"the SuperLink is up; {online} of {len(folder.names)} nodes are online")
            if online == len(folder.names):
                return
            if time.monotonic() > deadline:
                raise RehearsalError(
                    f"{max(online, 0)} of {len(folder.names)} nodes came up in {patience_s:.0f} s; "
                    f"see {logs}"
                )
            time.sleep(_LOOK_S)


def _online(control: Control, folder: DeploymentFolder) -> int:
    """How many nodes are online; -1 while the SuperLink does not answer."""
    try:
        status = control.nodes()
    except httpx.HTTPError:
        return -1
    return sum(status.get(key) == _ONLINE for key in folder.public_keys)


def _refuse_ended(processes: Mapping[str, subprocess.Popen[bytes]], logs: Path) -> None:
    for name, process in processes.items():
        if (code := process.poll()) is not None:
            raise RehearsalError(f"{name} ended (exit {code}); see {logs / f'{name}.log'}")


def _end(processes: Mapping[str, subprocess.Popen[bytes]]) -> None:
    """Nodes first: a SuperLink that is gone would leave them dialling."""
    for process in reversed(list(processes.values())):
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + _END_S
    for process in processes.values():
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
