"""The processes of a node: kept going, started again when they end, killed when they hang."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copyfile

import psutil

from fedtune.node.budget import Ledger, Working

AGAIN_S, LONGEST_PAUSE_S = 1.0, 60.0
LASTED_S = 60.0  # a process that ran so long was well
_END_S = 10.0
MAX_LOG_BYTES = 2**26  # of a process of a node; twice that with the one before


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
            self.kill()

    def kill(self) -> None:
        """End it and all that it started, whatever they are at."""
        if self.process is None or self.process.poll() is not None:
            return
        with suppress(psutil.NoSuchProcess):
            for each in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    each.kill()
        self.process.kill()
        self.process.wait()

    def listens_on(self, port: int) -> bool:
        """Whether it is this process that holds a port: another could wait on it for ours."""
        if self.process is None or self.process.poll() is not None:
            return False
        try:
            held = psutil.Process(self.process.pid).net_connections(kind="inet")
        except psutil.Error:
            return False
        return any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in held)


class Kept:
    """A child that is started when it may be, and again when it ends.

    One that cannot last is started ever more rarely: else it would load its libraries for ever.
    """

    def __init__(
        self, name: str, child: Child, *, may_start: Callable[[], bool] = lambda: True
    ) -> None:
        self.name, self.child = name, child
        self._may_start = may_start
        self._began, self._due, self._pause_s = 0.0, 0.0, AGAIN_S
        self._runs = False

    def look(self) -> str | None:
        """Start it where it is due; what there is to say of its end, once."""
        now = time.monotonic()
        if self.child.log is not None:
            turn_over(self.child.log)
        if self._runs and (code := self.child.code()) is not None:
            self._runs = False
            lasted = now - self._began > LASTED_S
            self._pause_s = AGAIN_S if lasted else min(2 * self._pause_s, LONGEST_PAUSE_S)
            self._due = now + self._pause_s
            return (
                f"the {self.name} ended ({_why(code)}) and is started again in {self._pause_s:g} s"
                f"; see {self.child.log}"
            )
        if not self._runs and now >= self._due and self._may_start():
            self.child.start()
            self._runs, self._began = True, now
        return None


def turn_over(log: Path) -> None:
    """Begin a log anew once it is long, and keep the one before: a server chooses how much is told.

    A process that appends to it goes on at its new end.
    """
    try:
        if log.stat().st_size <= MAX_LOG_BYTES:
            return
        copyfile(log, log.with_name(f"{log.name}.old"))
        os.truncate(log, 0)
    except OSError:  # it is not there yet, or the disk is full: the next look may find room
        return


class Watchdog:
    """Kills a worker that works on one order for longer than its owner allows.

    The worker cannot do so itself: what hangs, a regular expression say, can hold its interpreter.
    """

    def __init__(self, ledger: Ledger, worker: Child) -> None:
        self._ledger, self._worker = ledger, worker
        self._seen: tuple[int, int] | None = None
        self._working: Working | None = None
        self._since = 0.0

    def look(self) -> str | None:
        """Kill it if it is time; what there is to say of it."""
        self._read()
        if self._working is None or self._worker.code() is not None:
            return None
        took_s, limit_s = time.monotonic() - self._since, self._working.limit_s
        if took_s <= limit_s:
            return None
        self._worker.kill()
        self.settle()
        return f"the worker was killed: its order took more than {limit_s:.0f} s (max_order_s)"

    def settle(self) -> None:
        """Count the order that the worker leaves open by its end."""
        if self._worker.code() is not None:
            self._ledger.settle()
            self._working = None

    def _read(self) -> None:
        try:
            found = self._ledger.path.stat()
        except FileNotFoundError:
            return
        if (seen := (found.st_ino, found.st_mtime_ns)) == self._seen:
            return
        self._seen, working = seen, self._ledger.read().working
        if working is not None and working != self._working:
            self._since = time.monotonic()
        self._working = working


def _why(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit {code}"
