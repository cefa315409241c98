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
from fedtune.federation.link.bundle import make_bundle
from fedtune.federation.link.clock import complaint
from fedtune.federation.link.guard import PIN, write_wrappers
from fedtune.federation.link.node_app import SOCKET
from fedtune.plain import plain

Say = Callable[[str], None]
_LONGEST_SOCKET = 100  # bytes of a path that every kernel takes
_WATCH_S = 0.2
_AGAIN_S, _LONGEST_PAUSE_S = 1.0, 60.0
_LASTED_S = 60.0  # a worker that ran so long was well
_END_S = 10.0
_HERE = "fedtune.federation.link"


@dataclass
class Child:
    """One process of a node."""

    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path | None
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start it; what it prints goes to the end of its log, or where ours goes."""
        with ExitStack() as stack:
            log = None if self.log is None else stack.enter_context(self.log.open("ab"))
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


def run_node(
    folder: Path, supernode: Sequence[str], *, say: Say, stop: threading.Event | None = None
) -> int:
    """Run a node until its SuperNode ends, or it is told to stop.

    Args:
        folder: The node's; logs and state lie under its ``run``.
        supernode: The command that starts Flower's SuperNode.
        say: Told what happens, a line each.
        stop: Set from outside to stop it; SIGTERM and SIGINT do as well.

    Returns:
        The SuperNode's exit status; 0 if it was told to stop.
    """
    stop = stop or threading.Event()
    with ExitStack() as stack:
        state = folder / "run"
        state.mkdir(mode=0o700, exist_ok=True)
        socket, device = _socket_in(state, stack), load_node_config(folder).device
        environment = _environment(state, socket, device)
        worker = Child(_worker(socket, folder), environment, state / "worker.log")
        node = Child(supernode, environment, None)
        stack.enter_context(_stopped_by_signals(stop))
        for child in (worker, node):
            stack.callback(child.end)
            child.start()
        return _watch(worker, node, say, stop)


def _watch(worker: Child, node: Child, say: Say, stop: threading.Event) -> int:
    began, pause_s = time.monotonic(), _AGAIN_S
    while not stop.wait(_WATCH_S):
        if (code := node.code()) is not None:
            return code
        if (code := worker.code()) is not None:
            # One that cannot start would else load its libraries over and over, for ever.
            lasted = time.monotonic() - began > _LASTED_S
            pause_s = _AGAIN_S if lasted else min(2 * pause_s, _LONGEST_PAUSE_S)
            say(
                f"the worker ended ({_why(code)}) and is started again in {pause_s:g} s; "
                f"see {worker.log}"
            )
            stop.wait(pause_s)
            began = time.monotonic()
            worker.start()
    return 0


def _why(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit {code}"


def _worker(socket: Path, folder: Path) -> list[str]:
    return [sys.executable, "-P", "-m", f"{_HERE}.node_worker", str(socket), str(folder)]


def _socket_in(state: Path, stack: ExitStack) -> Path:
    """Where the worker listens: beside the logs, or in tmp where that path is too long."""
    path = state / "worker.sock"
    if len(os.fsencode(path)) <= _LONGEST_SOCKET:
        return path
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedtune-"))) / "worker.sock"


def _environment(state: Path, socket: Path, device: str) -> dict[str, str]:
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
        PIN: make_bundle().hash_str,  # that of the fedtune that is installed here
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


def main() -> None:
    """`python -m fedtune.federation.link.node FOLDER COMMAND...`."""

    def say(line: str) -> None:
        print(plain(line), file=sys.stderr, flush=True)

    folder, supernode = Path(sys.argv[1]), sys.argv[2:]
    status = run_node(folder, supernode, say=say)
    if "--superlink" in supernode:
        address = supernode[supernode.index("--superlink") + 1]
        if told := complaint(address, folder / "ca.pem"):
            say(told)
    sys.exit(status)


if __name__ == "__main__":
    main()
