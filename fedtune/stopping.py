"""SIGTERM, as service managers and schedulers send it, stops a command as Ctrl-C does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_BY_CONVENTION = 128  # an exit status is this and the signal's number
_last = signal.SIGINT


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Within the block, in the main thread, SIGTERM does what SIGINT would do at that moment.

    That is to raise KeyboardInterrupt, unless something inside the block has said otherwise. Where
    SIGINT is ignored, as a shell has it for what it starts with ``&``, SIGTERM raises all the same.
    """
    global _last

    def stop(number: int, frame: FrameType | None) -> None:
        global _last
        _last = signal.SIGTERM
        handler = signal.getsignal(signal.SIGINT)
        if not callable(handler):
            raise KeyboardInterrupt
        handler(signal.SIGINT, frame)

    _last = signal.SIGINT
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def status_when_stopped() -> int:
    """The exit status of a command that KeyboardInterrupt ended: 130, or 143 after a SIGTERM."""
    return _BY_CONVENTION + _last
