"""What a bench leaves on disk: a folder per cell, and all results in one file."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path

from fedtune.attack_bench.measured import NOT_FINITE
from fedtune.durable import make_folder, write_whole
from fedtune.records.bench_result import Line, Outcome

RESULT = "result.json"
EVERY_S = 1.0


class Store:
    """The files of one bench, under ``runs/bench/<name>/``.

    A result is written whole when its cell ends, and found again by the hash that names its
    folder. What the hash does not see is a data set or a model on disk that changed under its name:
    remove the folder then.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.cells = self.path / "cells"
        self.recorded = self.path / "recorded"
        self.remembered = self.path / "client-rounds"
        self.results = self.path / "results.jsonl"
        self.summary = self.path / "summary.json"
        self.table = self.path / "summary.md"
        self.page = self.path / "bench.html"
        self.log = self.path / "workers.log"
        self._written = 0.0

    def open(self) -> None:
        """Make the folder."""
        make_folder(self.cells)

    def cell(self, key: str) -> Path:
        """The folder of a cell."""
        return self.cells / key

    def read(self, key: str) -> Outcome | None:
        """The result of a cell that has ended; None if it has not, or it is damaged."""
        try:
            found = Outcome.model_validate_json((self.cell(key) / RESULT).read_bytes())
        except (OSError, ValueError):
            return None
        # written so before there was a word for it
        if found.status == "stopped" and found.message == NOT_FINITE:
            return found.model_copy(update={"status": "diverged"})
        return found

    def keep(self, key: str, result: Outcome) -> None:
        """Write the result of a cell."""
        make_folder(self.cell(key))
        write_whole(self.cell(key) / RESULT, _json(result) + "\n")

    def write_results(self, lines: Iterable[Line], *, now: bool) -> None:
        """Write results.jsonl whole.

        Args:
            lines: Made only if they are written.
            now: Whether it must be; else it may wait until a second has passed since the last
                time. Nothing is lost by that: each cell has its own result.
        """
        if now or time.monotonic() - self._written >= EVERY_S:
            text = "".join(_json(line) + "\n" for line in lines)
            write_whole(self.results, text)
            self._written = time.monotonic()


def _json(result: Outcome) -> str:
    return json.dumps(result.model_dump(mode="json", exclude={"file"}), allow_nan=False)
