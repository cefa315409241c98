"""A run's files as they grow: what is half written waits, what is damaged is refused by line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

MAX_LINE_BYTES = 2**26  # a record of 10,000 clients is a thirtieth of it
MAX_FILE_BYTES = 2**22  # of a recipe, a manifest or stages.json
MAX_COUNT = 2**31
_BY_CLIENT = (
    "clients", "refused", "evaluation_refused", "asked_rounds", "dropped_rounds", "client_eval",
    "client_eval_before",
)  # fmt: skip
_TAIL_BYTES = 4096

Record = Mapping[str, Any]
T = TypeVar("T")


class Records:
    """The records of a metrics.jsonl; each `read` takes in only what is new.

    A run that is resumed cuts the file and writes on: then all of it is read again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records: list[Record] = []
        self._at = 0
        self._tail = b""

    def read(self) -> list[Record]:
        """All whole records so far; the same list as long as nothing was added.

        Raises:
            ValueError: If a whole line is no record: it is named, and what is wrong with it.
        """
        if not self._path.is_file():
            self._forget()
            return self._records
        with self._path.open("rb") as stream:
            if not self._is_as_read(stream):
                self._forget()
            stream.seek(self._at)
            fresh: list[Record] = []
            whole = b""
            while line := stream.readline(MAX_LINE_BYTES):
                if not line.endswith(b"\n"):
                    if len(line) == MAX_LINE_BYTES:
                        raise self._refusal(len(fresh), f"at most {MAX_LINE_BYTES} bytes")
                    break  # the run is writing it
                fresh.append(self._record(line, len(fresh)))
                whole = line
                taken = stream.tell()
        if fresh:
            self._records = [*self._records, *fresh]
            self._at, self._tail = taken, whole[-_TAIL_BYTES:]
        return self._records

    def _is_as_read(self, stream: Any) -> bool:  # noqa: ANN401  a binary stream
        stream.seek(self._at - len(self._tail))
        found: bytes = stream.read(len(self._tail))
        return found == self._tail

    def _forget(self) -> None:
        if self._records:
            self._records = []
        self._at, self._tail = 0, b""

    def _record(self, line: bytes, fresh: int) -> Record:
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            raise self._refusal(fresh, "JSON") from None
        if (wrong := _wrong(said)) is not None:
            raise self._refusal(fresh, wrong)
        record: Record = said
        return record

    def _refusal(self, fresh: int, needs: str) -> ValueError:
        number = len(self._records) + fresh + 1
        self._forget()
        return ValueError(
            f"{self._path} is damaged: line {number} needs {needs}; bring back the file as the run "
            f"left it, or cut it off before that line"
        )


def _wrong(record: object) -> str | None:
    """What a record lacks that all who read records rely on, or None."""
    if not isinstance(record, dict):
        return "an object"
    if not _is_count(record.get("round")):
        return "a round that is a count"
    for name in _BY_CLIENT:
        if not _is_by_client(record.get(name, {})):
            return f"{name} by client"
    before = record.get("refused_before", [])
    if not isinstance(before, list) or not all(map(_is_by_client, before)):
        return "refused_before to be a list, each by client"
    sampled = record.get("sampled", [])
    if not isinstance(sampled, list) or not all(map(_is_count, sampled)):
        return "sampled to be a list of clients"
    if not isinstance(record.get("eval", {}), dict):
        return "eval to be figures by name"
    return None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_COUNT


def _is_by_client(section: object) -> bool:
    return isinstance(section, dict) and all(
        key.isascii() and key.isdecimal() and len(key) < 10 for key in section
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
