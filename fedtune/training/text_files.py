"""The files behind a source: datasets reads bytes that are no UTF-8 as other letters."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator
from pathlib import Path

from fedtune.recipe import Source
from fedtune.training.csv_files import check_fields

TEXT = {".json", ".jsonl", ".csv"}
_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
_NO_JSON = "{}, line {}, is no JSON: {}; mend that line"
_SHOWN = 20  # bytes before and after the first that is wrong


def patterns_of(source: Source) -> list[str]:
    """The source's ``data_files`` as datasets takes them: a file that is there means itself."""
    files = source.data_files or []
    return [
        glob.escape(file) if "://" not in file and _is_file(source, file) else file
        for file in ([files] if isinstance(files, str) else files)
    ]


def matches(source: Source, file: str) -> list[Path]:
    """The files here that one of ``data_files`` names; beside the source's folder, if it is one."""
    return [
        Path(found)
        for root in _roots(source)
        for found in glob.glob(_joined(root, file), recursive=True)
    ]


def check_text(source: str | Source) -> None:
    """Hold the text files of a source against UTF-8, and CSV against its head, as far as read.

    Args:
        source: Of files that are here; of others nothing is known.

    Raises:
        ValueError: Naming the file and the line.
    """
    left = source.take if isinstance(source, Source) else None
    for path in dict.fromkeys(_files_of(source)):
        if path.suffix in TEXT and path.is_file() and left != 0:
            rows = _check_file(path, left)
            if path.suffix == ".csv":
                check_fields(path, left)
            left = None if left is None else left - rows


def first_broken(source: str | Source) -> str:
    """Where the first JSON of a source is that is none: file, line from 1, why; else nothing."""
    for path in sorted(set(_files_of(source))):
        if path.suffix in {".json", ".jsonl"} and (found := _broken(path)):
            return found
    return ""


def _broken(path: Path) -> str:
    """What is wrong with a file that is read as lines of JSON, or as one value on many lines."""
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                json.loads(line)
            except ValueError as error:
                if number == 1 and path.suffix == ".json":
                    return _broken_value(path)
                return _NO_JSON.format(path, number, error)
    return ""


def _broken_value(path: Path) -> str:
    try:
        json.loads(path.read_text("utf-8"))
    except json.JSONDecodeError as error:
        return _NO_JSON.format(path, error.lineno, error)
    return ""


def _files_of(source: str | Source) -> Iterator[Path]:
    if isinstance(source, Source):
        for pattern in patterns_of(source):
            if "://" not in pattern:
                yield from sorted(matches(source, pattern))
        if source.data_files:
            return
        source = source.path
    path = Path(source).expanduser()
    if path.is_dir():
        yield from sorted(path.rglob("*"))
    elif path.is_file():
        yield path


def _joined(root: Path, file: str) -> str:
    """A pattern from a folder on; an absolute one stays as it is."""
    return str(Path(glob.escape(str(root))) / Path(file).expanduser())


def _is_file(source: Source, file: str) -> bool:
    return any((root / Path(file).expanduser()).is_file() for root in _roots(source))


def _roots(source: Source) -> list[Path]:
    folder = Path(source.path).expanduser()
    return [folder, Path()] if folder.is_dir() else [Path()]


def _check_file(path: Path, most: int | None) -> int:
    """Check so many rows of a file, or all; return how many they are, as far as lines tell."""
    is_csv, rows, quoted = path.suffix == ".csv", 0, False
    with path.open("rb") as stream:
        if stream.read(4).startswith(_MARKS):
            raise ValueError(f"data.source: {path} is UTF-16 or UTF-32; save it as UTF-8")
        stream.seek(0)
        for number, line in enumerate(stream, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                shown = line[max(0, error.start - _SHOWN) : error.start + _SHOWN]
                raise ValueError(
                    f"data.source: {path}, line {number}, is not UTF-8 (perhaps Latin-1): "
                    f"{shown.decode('latin-1')!r}; save it as UTF-8"
                ) from None
            if is_csv:  # the head is no row, and a quoted field may hold ends of lines
                quoted ^= line.count(b'"') % 2 == 1
            rows += not quoted and (number > 1 or not is_csv)
            is_array = number == 1 and path.suffix == ".json" and line.lstrip().startswith(b"[")
            if is_array:  # datasets reads one whole
                most = None
            if most is not None and rows >= most:
                break
    return rows
