"""The round in progress on disk, for onlookers in other processes; no record keeps it."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from fedtune.records.events import (
    Event,
    Ignored,
    Observer,
    Refused,
    Replied,
    RoundFinished,
    RoundStarted,
    RunStarted,
)

JOURNAL = "progress.jsonl"
BEGAN, STOPPED = "Began", "Stopped"
MAX_REASON = 1000
MAX_BYTES = 2**25  # of a journal that is read; a round of 50,000 clients is a third of it


class Journal:
    """An observer that passes events on and writes each as a line of ``progress.jsonl``.

    The file holds one round at most: it is begun anew with each, and gone once all rounds are
    done. Lines are not synced: the file tells an onlooker, and nothing is resumed from it. What
    cannot be written is warned of once, and is never a reason for a run to fail.

    Args:
        folder: The run's.
        observer: Who else watches.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, folder: Path, observer: Observer, clock: Callable[[], float] = time.time
    ) -> None:
        self._path = folder / JOURNAL
        self._observer = observer
        self._clock = clock
        self._handle: int | None = None
        self._head = b""
        self._cut = False

    def __enter__(self) -> Observer:
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
            self._handle = os.open(self._path, flags, 0o600)
        except OSError as error:
            self._warn(error)
        self._head = self._line(BEGAN, {"pid": os.getpid()})
        self._write(self._head)
        return self.note

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._write(self._line(STOPPED, _told(error)))
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        if error is None:
            try:
                self._path.unlink(missing_ok=True)
            except OSError as left:
                self._warn(left)

    def note(self, event: Event) -> None:
        """Write an event down, then pass it on."""
        match event:
            case RunStarted():
                self._head += self._line("RunStarted", {})
                self._write(self._head, anew=True)
            case RoundStarted():
                # a retry goes on with the replies that are in
                line = self._line("RoundStarted", asdict(event))
                first = event.attempt == 0
                self._write(self._head + line if first else line, anew=first)
            case RoundFinished():
                pass  # metrics.jsonl has it
            case _:
                of = {key: _or_null(value) for key, value in asdict(event).items()}
                self._write(self._line(type(event).__name__, of))
        self._observer(event)

    def _line(self, kind: str, of: dict[str, Any]) -> bytes:
        line = {"at": round(self._clock(), 3), "kind": kind, "of": of}
        return json.dumps(line).encode() + b"\n"

    def _write(self, lines: bytes, *, anew: bool = False) -> None:
        if self._handle is None:
            return
        try:
            if anew:
                os.truncate(self._handle, 0)
            # What a full disk cut off must not swallow the line that comes after it.
            whole = b"\n" + lines if self._cut and not anew else lines
            self._cut = os.write(self._handle, whole) != len(whole)
        except OSError as error:
            self._cut = True
            self._warn(error)

    _warned = False

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            text = "%s: %s; the run goes on, and onlookers do not see the round in progress"
            logging.getLogger("fedtune").warning(text, self._path, error.strerror)


def _or_null(value: object) -> object:
    """JSON has null for what is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _told(error: BaseException) -> dict[str, Any]:
    reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
    return {
        "reason": (reason or type(error).__name__)[:MAX_REASON],
        "resumable": bool(getattr(error, "resumable", True)),
    }


RoundEvent = RoundStarted | Replied | Refused | Ignored


@dataclass(frozen=True)
class Told:
    """What a journal tells.

    Attributes:
        began_at: When the process began that wrote it, in seconds since the epoch.
        begun: Whether the clients had introduced themselves.
        events: Of the round in progress, each with its time.
        stopped: Why the run stopped, in the server's own words or a client's; None if it tells
            of no stop: the run is at work, or was killed.
        resumable: False where going on would only fail again.
    """

    began_at: float | None = None
    begun: bool = False
    events: Sequence[tuple[float, RoundEvent]] = field(default_factory=list)
    stopped: str | None = None
    resumable: bool = True


def read_journal(folder: Path) -> Told:
    """Read the journal of a run's folder; lines that say nothing known are passed over.

    It may be half written, from another version, or hold what a stranger put there.
    """
    if not (folder / JOURNAL).is_file():  # to open a pipe may never return
        return Told()
    try:
        with (folder / JOURNAL).open("rb") as stream:
            lines = stream.read(MAX_BYTES).split(b"\n")
    except OSError:
        return Told()
    began_at, begun, stopped, resumable = None, False, None, True
    events: list[tuple[float, RoundEvent]] = []
    for line in lines:
        at, kind, of = _parsed(line)
        if kind == BEGAN:
            began_at = at
        elif kind == "RunStarted":
            begun = True
        elif kind == STOPPED:
            stopped = str(of.get("reason"))[:MAX_REASON]
            resumable = of.get("resumable") is not False
        elif (event := _event(kind, of)) is not None:
            events.append((at, event))
    return Told(began_at, begun, events, stopped, resumable)


def _parsed(line: bytes) -> tuple[float, str, dict[str, Any]]:
    nothing: tuple[float, str, dict[str, Any]] = (0.0, "", {})
    try:
        said = json.loads(line)
        at, kind, of = said["at"], said["kind"], said["of"]
        if not isinstance(kind, str) or not isinstance(of, dict):
            return nothing
        return _number(at), kind, of
    except (ValueError, LookupError, TypeError, RecursionError):
        return nothing


def _event(kind: str, of: dict[str, Any]) -> RoundEvent | None:
    """One event, or None if it is not one that a journal writes."""
    try:
        round_ = _count(of["round"])
        if kind == "RoundStarted":
            clients = [_count(client) for client in of["clients"]]
            return RoundStarted(round_, _count(of["attempt"]), clients)
        client = _count(of["client"])
        if kind == "Replied":
            loss = of["train_loss"]
            told = None if loss is None else _number(loss)
            return Replied(round_, client, _count(of["upload_bytes"]), told)
        if kind in {"Refused", "Ignored"}:
            made = Refused if kind == "Refused" else Ignored
            return made(round_, client, str(of["reason"])[:MAX_REASON])
    except (ValueError, LookupError, TypeError):
        return None
    return None


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise ValueError(f"needs a count; got {type(value).__name__}")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**1000:
        raise ValueError(f"needs a number; got {type(value).__name__}")
    return float(value)
