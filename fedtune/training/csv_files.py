"""CSV that does not fit its head: pandas takes one field too many for a row's name, and shifts."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

_OTHERS = (";", "\t", "|")  # what else parts fields


def check_fields(path: Path, most: int | None) -> None:
    """Refuse a file whose head has another separator, or whose rows have more fields than its head.

    Args:
        path: UTF-8 as far as it is read, parted by commas; a field in quotes may hold commas and
            ends of lines.
        most: Rows that are read; None: all.

    Raises:
        ValueError: Naming the file, and the line.
    """
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        rows = csv.reader(stream)
        head = next(rows, [])
        if len(head) == 1 and (other := next((each for each in _OTHERS if each in head[0]), "")):
            raise ValueError(
                f"data.source: {path}: the head is one field, {head[0]!r}: are fields parted by "
                f"{other!r}? save the file with commas"
            )
        for number, row in enumerate(rows, 1):
            if len(row) > len(head):
                raise ValueError(
                    f"data.source: {path}, line {rows.line_num}: {len(row)} fields, and the head "
                    f"has {len(head)} ({', '.join(head)}); put fields that hold a comma in quotes"
                )
            if number == most:
                break
