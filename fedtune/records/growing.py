"""The records of a metrics.jsonl that may be growing, and small files that may be replaced."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

from fedtune.records.lines import RoundRecord, UnreadableLineError, read_record

MAX_LINE_BYTES = 2**26  # a record of 10,000 clients is a thirtieth of it
MAX_METRICS_BYTES = 2**30  # of a metrics.jsonl: 10,000 rounds of 1,000 clients
MAX_FILE_BYTES = 2**22  # of a recipe, a manifest or stages.json
_TAIL_BYTES = 4096

T = TypeVar("T")


class Records:
    """The records of a metrics.jsonl; each `read` takes in only what is new.

    What is half written waits. A run that is resumed cuts the file and writes on: then all of it
    is read again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records: list[RoundRecord] = []
        self._at = 0
        self._tail = b""

    def read(self) -> list[RoundRecord]:
        """All whole records so far; the same list as long as nothing was added.

        Raises:
            ValueError: If a whole line is no record: it is named, and what is wrong with it.
        """
        if not self._path.is_file():
            self._forget()
            return self._records
        if (size := self._path.stat().st_size) > MAX_METRICS_BYTES:
            raise ValueError(f"{self._path} needs at most {MAX_METRICS_BYTES} bytes; got {size}")
        with self._path.open("rb") as stream:
            if not self._is_as_read(stream):
                self._forget()
            stream.seek(self._at)
            fresh: list[RoundRecord] = []
            whole = b""
            while line := stream.readline(MAX_LINE_BYTES):
                if not line.endswith(b"\n"):
                    if len(line) == MAX_LINE_BYTES:
                        raise self._refusal(len(fresh), f"at most {MAX_LINE_BYTES} bytes")
                    break  # the run is writing it
                try:
                    fresh.append(read_record(line))
                except UnreadableLineError as error:
                    raise self._refusal(len(fresh), str(error)) from None
                whole = line
                taken = stream.tell()
        if fresh:
            self._records = [*self._records, *fresh]
            self._at, self._tail = taken, whole[-_TAIL_BYTES:]
        return self._records

    def _is_as_read(self, stream: BinaryIO) -> bool:
        stream.seek(self._at - len(self._tail))
        return stream.read(len(self._tail)) == self._tail

    def _forget(self) -> None:
        if self._records:
            self._records = []
        self._at, self._tail = 0, b""

    def _refusal(self, fresh: int, needs: str) -> ValueError:
        number = len(self._records) + fresh + 1
        self._forget()
        return ValueError(
            f"{self._path} is damaged: line {number} needs {needs}; bring back the file as the run "
            f"left it, or cut it off before that line"
        )


class Remembered(Generic[T]):
    """What a small file says; read again only once it was written again."""

    def __init__(self, path: Path, read: Callable[[Path], T]) -> None:
        self._path = path
        self._read = read
        self._known: tuple[object, T] | None = None

    def __call__(self) -> T:
        """Read it if that is needed.

        Raises:
            OSError: If it is not there.
            ValueError: If it is too large, or cannot be read.
        """
        stat = self._path.stat()
        version = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if self._known is None or self._known[0] != version:
            refuse_large(self._path)
            try:
                self._known = version, self._read(self._path)
            except RecursionError:
                raise ValueError(f"{self._path} is damaged: it nests too deep") from None
        return self._known[1]


def read_object(path: Path) -> dict[str, Any]:
    """Read a small JSON file that holds an object; empty if there is none.

    Raises:
        ValueError: If it is too large, or holds anything else.
    """
    if not path.is_file():
        return {}
    refuse_large(path)
    try:
        said = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise ValueError(f"{path} is damaged: it needs a JSON object; bring it back")
    return said


def refuse_large(path: Path) -> None:
    """Keep from reading what no run writes.

    Raises:
        ValueError: If the file is larger than any recipe or manifest.
    """
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{path} is damaged: it needs at most {MAX_FILE_BYTES} bytes; got {size}")
