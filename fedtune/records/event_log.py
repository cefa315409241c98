"""What the server's process tells onlookers in other processes: one JSON line an event."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from fedtune.records import events
from fedtune.records.events import Event, RunStoppedError
from fedtune.records.folder import own

NAME = "events.jsonl"
KINDS = {
    kind.__name__: kind
    for kind in (
        events.RunStarted,
        events.RoundStarted,
        events.Replied,
        events.Refused,
        events.Ignored,
        events.RoundFinished,
    )
}
ENDED, STOPPED = "ended", "stopped"


class EventLog:
    """Appends to ``events.jsonl`` of a run folder; begun anew by each process that runs there."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME

    def __enter__(self) -> EventLog:
        self._stream = open(self._path, "w", encoding="utf-8", opener=own)
        self._write({"kind": "began", "pid": os.getpid()})
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and not self._told:
            self.stopped(error)
        self._stream.close()

    _told = False

    def note(self, event: Event) -> None:
        """An observer."""
        self._write({"kind": type(event).__name__, "of": asdict(event)})

    def stopped(self, error: BaseException) -> None:
        """The run could not go on."""
        self._told = True
        said = {"error": str(error), "resumable": getattr(error, "resumable", True)}
        self._write({"kind": STOPPED, **said})

    def ended(self) -> None:
        """The run is whole."""
        self._told = True
        self._write({"kind": ENDED})

    def _write(self, line: dict[str, Any]) -> None:
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()


class Follower:
    """Reads what an `EventLog` in another process writes, as it comes."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._at = 0
        self.done = False
        self.began = False

    def skip_old(self) -> None:
        """Forget what an earlier process left."""
        self._path.unlink(missing_ok=True)

    def fresh(self) -> Iterator[Event]:
        """Events since the last call.

        Raises:
            RunStoppedError: If the run told that it stopped.
        """
        if not self._path.is_file():
            return
        with self._path.open("rb") as stream:
            stream.seek(self._at)
            for line in stream:
                if not line.endswith(b"\n"):  # half written
                    return
                self._at += len(line)
                if (event := self._read(json.loads(line))) is not None:
                    yield event

    def _read(self, line: dict[str, Any]) -> Event | None:
        self.began = True
        if line["kind"] == STOPPED:
            raise RunStoppedError(line["error"], resumable=line["resumable"])
        if line["kind"] == ENDED:
            self.done = True
        kind = KINDS.get(line["kind"])
        if kind is None:
            return None
        event: Event = kind(**line["of"])
        return event
