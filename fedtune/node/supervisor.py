"""A node: Flower's SuperNode, its launcher and the worker beside it, watched and stopped as one."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from fedtune.deployment.node import load_node_config
from fedtune.node.budget import Ledger, make_state
from fedtune.node.node_app import SOCKET
from fedtune.node.processes import Child, Kept, Watchdog
from fedtune.plain import plain
from fedtune.transport.flower.bundle import make_bundle
from fedtune.transport.flower.clock import complaint
from fedtune.transport.flower.guard import PIN, write_wrappers

Say = Callable[[str], None]
_LONGEST_SOCKET = 100  # bytes of a path that every kernel takes
_WATCH_S = 0.2
# Flower's port on loopback is open to every account of the machine. With a secret, which it takes
# of a launcher that it does not start itself alone, its messages are this node's.
OURS_ALONE = ("--isolation", "process", "--superexec-auth-secret-file")
_HERE = "fedtune.transport.flower"


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
        state, ledger = make_state(folder), Ledger(folder)
        socket, device = _socket_in(state, stack), load_node_config(folder).device
        environment = _environment(state, socket, device)
        secret, port = _new_secret(state), _port_in(supernode)
        worker = Child(_worker(socket, folder), environment, state / "worker.log")
        node = Child([*supernode, *OURS_ALONE, str(secret)], environment, None)
        launcher = Child(_launcher(port, secret), environment, state / "launcher.log")
        ledger.settle()  # what a killed node left open is no order of the worker that starts now
        watchdog = Watchdog(ledger, worker)
        kept = [
            Kept("worker", worker),
            Kept("launcher", launcher, may_start=lambda: node.listens_on(port)),
        ]
        stack.enter_context(_stopped_by_signals(stop))
        stack.callback(watchdog.settle)
        for child in (worker, node, launcher):
            stack.callback(child.end)
        node.start()
        return _watch(kept, node, say, stop, watchdog)


def _watch(
    kept: Sequence[Kept],
    node: Child,
    say: Say,
    stop: threading.Event,
    watchdog: Watchdog | None = None,
) -> int:
    while True:
        if (code := node.code()) is not None:
            return code
        looks = [*([watchdog.look] if watchdog else []), *(each.look for each in kept)]
        for told in filter(None, (look() for look in looks)):
            say(told)
        if watchdog:
            watchdog.settle()
        if stop.wait(_WATCH_S):
            return 0


def _worker(socket: Path, folder: Path) -> list[str]:
    return [sys.executable, "-P", "-m", "fedtune.node.worker", str(socket), str(folder)]


def _launcher(port: int, secret: Path) -> list[str]:
    """What asks the SuperNode for messages, and starts a process for each."""
    own = ["-P", "-m", f"{_HERE}.guard", "launcher", "--insecure"]
    asked = ["--runtime-api-address", f"127.0.0.1:{port}", "--superexec-auth-secret-file"]
    return [sys.executable, *own, *asked, str(secret), "--parent-pid", str(os.getpid())]


def _port_in(supernode: Sequence[str]) -> int:
    """Of the machine's loopback, on which the SuperNode hands out its messages."""
    try:
        return int(supernode[supernode.index("--port") + 1])
    except (ValueError, IndexError):
        raise ValueError("a node needs --port, and a number: start.sh gives one") from None


def _new_secret(state: Path) -> Path:
    """A file that only this account can read: who does not know it gets no message."""
    path = state / "launcher.secret"
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(secrets.token_bytes(32))
    return path


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
    """`python -m fedtune.node.supervisor FOLDER COMMAND...`."""

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
