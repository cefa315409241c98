"""A node: Flower's SuperNode and the worker beside it, started, watched and stopped as one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from fedtune.deployment.node import load_node_config
from fedtune.federation.link.guard import PIN, write_wrappers
from fedtune.federation.link.node_app import SOCKET

Say = Callable[[str], None]
STILL_ACTIVE = 305 % 256  # Flower's exit where the key's last process is not yet taken for dead
_PATIENCE_S = 120.0  # Flower gives a dead node up after 60
_AGAIN_S = 5.0
_LONGEST_SOCKET = 100  # bytes of a path that every kernel takes
_WATCH_S = 0.2
_END_S = 10.0


@dataclass
class Child:
    """One process of a node."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start it; what it prints goes to the end of its log."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=dict(self.environment), stdout=log, stderr=log
            )

    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return None if self.process is None else self.process.poll()

    def end(self) -> None:
        """Ask it to end, and kill it if it does not."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class NodeFailedError(RuntimeError):
    """The SuperNode ended by itself; the text says where to look."""


def run_node(
    folder: Path,
    supernode: Sequence[str],
    *,
    bundle: str,
    say: Say,
    stop: threading.Event | None = None,
) -> None:
    """Run a node until it is told to stop.

    Args:
        folder: The node's; logs and state lie under its ``run``.
        supernode: The command that starts Flower's SuperNode.
        bundle: The SHA-256 of the app bundle that may run here.
        say: Told what happens, a line each.
        stop: Set from outside to stop it; SIGTERM and SIGINT do as well.

    Raises:
        NodeFailedError: If the SuperNode ends by itself.
    """
    stop = stop or threading.Event()
    with ExitStack() as stack:
        state = folder / "run"
        state.mkdir(mode=0o700, exist_ok=True)
        socket, device = _socket_in(state, stack), load_node_config(folder).device
        environment = _environment(state, socket, bundle, device)
        worker = Child("worker", _worker(environment, folder), environment, state / "worker.log")
        node = Child("supernode", supernode, environment, state / "supernode.log")
        for child in (worker, node):
            stack.callback(child.end)
            child.start()
        stack.enter_context(_stopped_by_signals(stop))
        _watch(worker, node, say, stop)


def _watch(worker: Child, node: Child, say: Say, stop: threading.Event) -> None:
    since = time.monotonic()
    while not stop.wait(_WATCH_S):
        if (code := worker.code()) is not None:
            say(f"the worker ended ({_why(code)}) and is started again; see {worker.log}")
            stop.wait(1.0)
            worker.start()
        if (code := node.code()) is None:
            continue
        if code != STILL_ACTIVE or time.monotonic() - since > _PATIENCE_S:
            raise NodeFailedError(f"the SuperNode ended ({_why(code)}); see {node.log}")
        say("the server does not take this key yet: its last process is given up within a minute")
        stop.wait(_AGAIN_S)
        node.start()


def _why(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit {code}"


def _worker(environment: Mapping[str, str], folder: Path) -> list[str]:
    module = "fedtune.federation.link.node_worker"
    return [sys.executable, "-m", module, environment[SOCKET], str(folder)]


def _socket_in(state: Path, stack: ExitStack) -> Path:
    """Where the worker listens: beside the logs, or in tmp where that path is too long."""
    path = state / "worker.sock"
    if len(os.fsencode(path)) <= _LONGEST_SOCKET:
        return path
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedtune-"))) / "worker.sock"


def _environment(state: Path, socket: Path, bundle: str, device: str) -> dict[str, str]:
    commands = state / "bin"
    kind, _, number = device.partition(":")
    one_of_many = {"CUDA_VISIBLE_DEVICES": number} if kind == "cuda" and number else {}
    write_wrappers(commands)
    found = Path(sys.executable).parent  # where Flower's own commands are
    return {
        **os.environ,
        **one_of_many,
        "PATH": os.pathsep.join([str(commands), str(found), os.environ.get("PATH", "")]),
        "FLWR_HOME": str(state / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05",
        PIN: bundle,
        SOCKET: str(socket),
    }


class _stopped_by_signals:  # noqa: N801  a context manager
    """Within it SIGTERM and SIGINT set a flag; outside the main thread no signal is touched."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._before: dict[int, object] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._stop.set()
