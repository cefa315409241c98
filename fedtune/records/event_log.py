"""What happens in a run, on disk as it happens, for onlookers in other processes."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from fedtune.records.events import (
    MAX_REASON,
    Event,
    Ignored,
    Observer,
    Refused,
    Replied,
    RoundEvent,
    RoundFinished,
    RoundStarted,
    RunStarted,
    RunStoppedError,
)
from fedtune.records.folder import RunFolder
from fedtune.records.growing import Records

LOG, OLD_LOG = "events.jsonl", "progress.jsonl"  # the second is what an older fedtune has left
BEGAN, INTRODUCED, FINISHED = "Began", "RunStarted", "RoundFinished"
STOPPED, ENDED = "Stopped", "Ended"
MAX_BYTES = 2**25  # that are read; a round of 50,000 clients is a third of it
KINDS: dict[str, Callable[..., RoundEvent]] = {
    kind.__name__: kind for kind in (RoundStarted, Replied, Refused, Ignored)
}
TIME = TypeAdapter(Annotated[float, Field(strict=True, allow_inf_nan=False)])


class EventLog:
    """An observer that passes events on and writes each as a line of ``events.jsonl``.

    Lines are not synced: the file tells an onlooker, and nothing is resumed from it. Records stand
    in metrics.jsonl, and not here. What cannot be written is warned of once, and is never a reason
    for a run to fail.

    Args:
        folder: The run's. The file is begun anew by each process that runs there.
        observer: Who else watches.
        whole: Keep all rounds, for a `Follower`; else the file holds one round at most.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        folder: Path,
        observer: Observer,
        *,
        whole: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path, self._old = folder / LOG, folder / OLD_LOG
        self._observer = observer
        self._whole = whole
        self._clock = clock
        self._handle: int | None = None
        self._head = b""
        self._cut = False

    def __enter__(self) -> Observer:
        try:
            self._old.unlink(missing_ok=True)
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
        else:
            line = self._line(ENDED, {})
            self._write(line if self._whole else self._head + line, anew=not self._whole)
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def note(self, event: Event) -> None:
        """Write an event down, then pass it on."""
        match event:
            case RunStarted():
                done = max((record.round for record in event.history), default=0)
                line = self._line(INTRODUCED, {"round": done})
                self._head += line
                self._write(line)
            case RoundFinished():
                self._write(self._line(FINISHED, {"round": event.record.round}))
            case _:
                line = self._line(type(event).__name__, asdict(event))
                # a retry goes on with the replies that are in
                anew = isinstance(event, RoundStarted) and event.attempt == 0 and not self._whole
                self._write(self._head + line if anew else line, anew=anew)
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


def _told(error: BaseException) -> dict[str, Any]:
    reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
    return {
        "reason": (reason or type(error).__name__)[:MAX_REASON],
        "resumable": bool(getattr(error, "resumable", True)),
    }


@dataclass(frozen=True)
class LogState:
    """What an event log says of a run.

    Attributes:
        began_at: When the process began that wrote it, in seconds since the epoch.
        begun: Whether the clients had introduced themselves.
        events: Of the newest round, each with its time.
        stopped: Why the run stopped, in the server's own words or a client's; None if nothing is
            said of a stop: the run is at work, has ended, or was killed.
        resumable: False where going on would only fail again.
    """

    began_at: float | None = None
    begun: bool = False
    events: Sequence[tuple[float, RoundEvent]] = field(default_factory=list)
    stopped: str | None = None
    resumable: bool = True


def read_event_log(folder: Path) -> LogState:
    """Read the event log of a run's folder; lines that say nothing known are passed over.

    It may be half written, from another version, or hold what a stranger put there.
    """
    old = folder / OLD_LOG
    path = old if old.is_file() else folder / LOG
    if not path.is_file():  # to open a pipe may never return
        return LogState()
    try:
        lines = _ends(path)
    except OSError:
        return LogState()
    began_at, begun, stopped, resumable = None, False, None, True
    events: list[tuple[float, RoundEvent]] = []
    for at, kind, of in map(_parsed, lines):
        if kind == BEGAN:
            began_at = at
        elif kind == INTRODUCED:
            begun = True
        elif kind == STOPPED:
            stopped = str(of.get("reason"))[:MAX_REASON]
            resumable = of.get("resumable") is not False
        elif (event := _event(kind, of)) is not None:
            if isinstance(event, RoundStarted) and event.attempt == 0:
                events.clear()
            events.append((at, event))
    return LogState(began_at, begun or bool(events), events, stopped, resumable)


def _ends(path: Path) -> list[bytes]:
    """The lines of a log; of a long one the first, and those at the end."""
    with path.open("rb") as stream:
        head, size = stream.readline(MAX_REASON), os.fstat(stream.fileno()).st_size
        if size > MAX_BYTES:
            stream.seek(size - MAX_BYTES)
            stream.readline(MAX_BYTES)
        return [head, *stream.read(MAX_BYTES).split(b"\n")]


def _parsed(line: bytes) -> tuple[float, str, dict[str, Any]]:
    nothing: tuple[float, str, dict[str, Any]] = (0.0, "", {})
    try:
        said = json.loads(line)
        at, kind, of = said["at"], said["kind"], said["of"]
        if not isinstance(kind, str) or not isinstance(of, dict):
            return nothing
        return TIME.validate_python(at), kind, of
    except (ValueError, LookupError, TypeError, RecursionError):
        return nothing


def _event(kind: str, of: dict[str, Any]) -> RoundEvent | None:
    """One event, or None if it is not one that a log holds."""
    try:
        return KINDS[kind](**of) if kind in KINDS else None
    except (ValidationError, TypeError):
        return None


class Follower:
    """Tells the events of a run in another process, as they come, each once and in order.

    Args:
        folder: The run's; its `EventLog` keeps all rounds.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOG
        self._records = Records(RunFolder(folder).metrics)
        self._at = 0
        self.done = False

    def skip_old(self) -> None:
        """Forget what an earlier process left."""
        self._path.unlink(missing_ok=True)

    def fresh(self) -> Iterator[Event]:
        """Events since the last call.

        Raises:
            RunStoppedError: If the run stopped.
        """
        if not self._path.is_file():
            return
        with self._path.open("rb") as stream:
            stream.seek(self._at)
            for line in stream:
                if not line.endswith(b"\n"):  # half written
                    return
                self._at += len(line)
                yield from self._read(line)

    def _read(self, line: bytes) -> Iterator[Event]:
        _, kind, of = _parsed(line)
        if kind == STOPPED:
            raise RunStoppedError(str(of.get("reason")), resumable=of.get("resumable") is not False)
        self.done = self.done or kind == ENDED
        if kind == INTRODUCED:
            yield RunStarted([one for one in self._records.read() if one.round <= of["round"]])
        elif kind == FINISHED:
            yield from map(
                RoundFinished,
                (one for one in self._records.read() if one.round == of["round"]),
            )
        elif (event := _event(kind, of)) is not None:
            yield event
