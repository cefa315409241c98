"""What a run leaves on disk: recipe, manifest, metrics, adapter. Every write is whole or absent."""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import IO, Any

from fedtune.durable import (
    OWN,
    make_folder,
    own,
    put_in_place,
    read_bytes,
    read_whole,
    sync,
    write_whole,
)
from fedtune.recipe import Recipe, to_yaml
from fedtune.recipe.source import read_run_recipe, with_absolute_paths
from fedtune.records.environment import environment
from fedtune.records.growing import MAX_METRICS_BYTES, Records
from fedtune.records.lines import SCHEMA_VERSION, RoundRecord, UnreadableLineError, read_record
from fedtune.records.manifest import Manifest, hash_of, read_manifest

STAGES = "stages.json"  # in a folder of several runs, one after another
LOCK = ".lock"
CLOSED = 0o700  # a run's folder is its owner's
LOOKED_AT_S = (0.01, 0.02, 0.04, 0.08)  # an onlooker holds the lock for less than the first


class RunFolder:
    """The files of one run, under ``runs/<name>/``; ``is_new``: it was made for this very run."""

    def __init__(self, path: Path, *, is_new: bool = False) -> None:
        self.path, self.is_new = path, is_new
        self.recipe = path / "recipe.yaml"
        self.manifest = path / "manifest.json"
        self.metrics = path / "metrics.jsonl"
        self.adapter = path / "adapter"
        self.best_adapter = path / "adapter_best"
        self.checkpoints = path / "checkpoints"

    @classmethod
    def create(cls, recipe: Recipe) -> tuple[RunFolder, Recipe]:
        """Make a folder for a run and write its recipe.

        A folder that already holds a run is left alone: the next free number is appended.

        Returns:
            The folder, and the recipe with ``output_dir`` set to it, all paths absolute.
        """
        folder = cls(claim(recipe.output_dir.expanduser().absolute()), is_new=True)
        recipe = with_absolute_paths(recipe).model_copy(update={"output_dir": folder.path})
        write_whole(folder.recipe, to_yaml(recipe))
        return folder, recipe

    @classmethod
    def open(cls, path: Path) -> tuple[RunFolder, Recipe]:
        """Open a folder that a run has left, wherever it lies now.

        Raises:
            FileNotFoundError: If no run began there.
        """
        folder = cls(path.expanduser().absolute())
        if not folder.recipe.is_file():
            raise FileNotFoundError(f"{path} holds no run: it needs a recipe.yaml")
        return folder, read_run_recipe(folder.path)

    @classmethod
    def enter(cls, recipe: Recipe) -> RunFolder:
        """Make the folder ``output_dir`` itself, or find it as an earlier try left it.

        The caller keeps others out, and sees to it that the recipe is the one it began with.
        """
        folder = cls(recipe.output_dir, is_new=not recipe.output_dir.exists())
        make_folder(folder.path, mode=CLOSED)
        write_whole(folder.recipe, to_yaml(recipe))
        return folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out; the lock goes with this one, however it ends.

        Raises:
            ValueError: If another process runs in the folder.
        """
        try:
            import fcntl
        except ImportError:  # Windows has none
            yield
            return
        path = self.path / LOCK
        with open(path, "r+", opener=_own_file) as stream:
            held = _try_lock(stream, fcntl.LOCK_EX)
            for wait_s in LOOKED_AT_S:
                if held is not False:
                    break
                time.sleep(wait_s)
                held = _try_lock(stream, fcntl.LOCK_EX)
            if held is False:
                raise ValueError(self._taken())
            if os.fstat(stream.fileno()).st_nlink == 0:  # its owner ended, and another may begin
                raise ValueError(self._taken())
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def at_work(self) -> bool | None:
        """Whether a process runs in the folder now; None where that cannot be told.

        It tries the lock and gives it back at once. Windows has none, nor have some file systems.
        """
        try:
            import fcntl
        except ImportError:
            return None
        path = self.path / LOCK
        if not path.is_file():
            return False
        try:
            with path.open("rb") as stream:
                got = _try_lock(stream, fcntl.LOCK_SH)
        except FileNotFoundError:  # gone since
            return False
        except OSError:
            return None
        return None if got is None else not got

    def _taken(self) -> str:
        return f"another process is running in {self.path}; wait until it ends, or stop it"

    def append_metrics(self, record: RoundRecord) -> RoundRecord:
        """Add one line, on disk before this returns; JSON has null for what is not finite.

        ``previous`` in it is the hash of the line before, of the first line that of the manifest:
        no line can be changed, left out or slipped in without all that follow.

        Returns:
            The record as `read_records` will give it.

        Raises:
            ValueError: If something of a wrong type was put into the record.
        """
        as_json = partial(record.model_dump, mode="json", by_alias=True, warnings=False)
        facts = as_json(exclude_defaults=True)  # a dict that was filled in place counts as unset
        facts |= as_json(exclude_unset=True)
        linked = {**facts, "schema_version": SCHEMA_VERSION, "previous": self.head()}
        line = json.dumps(linked, allow_nan=False) + "\n"
        try:
            read = read_record(line, written=True)
        except UnreadableLineError as error:
            raise ValueError(f"a line of {self.metrics} needs {error}") from None
        with open(self.metrics, "a", encoding="utf-8", opener=own) as stream:
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
        sync(self.path)  # the file itself may be new
        return read

    def head(self) -> str:
        """SHA-256 of the last line of the metrics, or of the manifest while there is none."""
        if not self.metrics_bytes():
            return self.manifest_hash()
        return hashlib.sha256(_last_line(self.metrics)).hexdigest()

    def manifest_hash(self) -> str:
        """SHA-256 of the manifest, which names the run."""
        return hash_of(self.manifest)

    def written_lines(self) -> list[bytes]:
        """Each line of metrics.jsonl as it is written, its line end included.

        Raises:
            ValueError: If the file is longer than any run's.
        """
        return io.BytesIO(read_bytes(self.metrics, most=MAX_METRICS_BYTES)).readlines()

    def metrics_bytes(self) -> int:
        """Bytes of metrics so far: what a checkpoint remembers."""
        return self.metrics.stat().st_size if self.metrics.exists() else 0

    def truncate_metrics(self, size: int) -> None:
        """Drop the lines of rounds that will be run again, and a line that is cut off.

        A file that lost its end is shorter than ``size``; to truncate it there would fill it up.
        """
        if self.metrics.exists():
            kept = self.metrics.read_bytes()[:size]
            os.truncate(self.metrics, kept.rfind(b"\n") + 1)

    def read_records(self) -> list[RoundRecord]:
        """All records so far; a line that was cut off in the middle is left out.

        Raises:
            ValueError: If a whole line is no record.
        """
        return Records(self.metrics).read()

    def read_metrics(self) -> list[dict[str, Any]]:
        """The same as plain JSON, without a look at what is in it."""
        records = []
        if self.metrics.is_file():
            for line in read_whole(self.metrics, most=MAX_METRICS_BYTES).splitlines():
                try:
                    records.append(json.loads(line))
                except json.JSONDecodeError:
                    break
        return records

    def write_manifest(self, facts: Mapping[str, Any]) -> None:
        """Record what made the run: versions, hashes, seed, hardware.

        Raises:
            ValueError: If a fact has no place in a `Manifest`, or a wrong type.
        """
        known = Manifest.model_validate({**facts, **environment()}, extra="forbid")
        write_whole(self.manifest, json.dumps(known.facts, indent=2) + "\n")

    def read_manifest(self) -> Manifest:
        """What `write_manifest` recorded; empty if the run never came so far.

        Raises:
            ValueError: If it is damaged.
        """
        return read_manifest(self.manifest)

    def replace_adapter(self, write: Callable[[Path], None], place: Path | None = None) -> None:
        """Have ``adapter/``, or ``place``, written beside its place, then put there; or nothing."""
        unfinished, place = self.path / ".adapter.tmp", place or self.adapter
        rmtree(unfinished, ignore_errors=True)
        try:
            write(unfinished)
        except BaseException:
            rmtree(unfinished, ignore_errors=True)
            raise
        rmtree(place, ignore_errors=True)
        put_in_place(unfinished, place)


def _try_lock(stream: IO[Any], kind: int) -> bool | None:
    """Whether the lock was got at once; None on a file system without locks."""
    import fcntl

    try:
        fcntl.flock(stream, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _last_line(path: Path, block: int = 2**16) -> bytes:
    """The last line of a file that ends with a line's end; no more is read than that takes."""
    with path.open("rb") as stream:
        start, found = stream.seek(0, os.SEEK_END), b""
        while start > 0 and found.find(b"\n", 0, -1) < 0:
            size = min(block, start)
            start -= size
            stream.seek(start)
            found = stream.read(size) + found
    return found[found.rfind(b"\n", 0, -1) + 1 :]


def claim(wanted: Path) -> Path:
    """Make the folder that is wanted, or the next free number; no two processes get the same."""
    path, number = wanted, 1
    while True:
        make_folder(path, mode=CLOSED)
        if not any(path.iterdir()):
            with suppress(FileExistsError), open(path / "recipe.yaml", "x", opener=own):
                return path
        number += 1
        path = wanted.with_name(f"{wanted.name}-{number}")


def holds_stages(path: Path) -> bool:
    """Whether a run of several stages began in a folder."""
    return (path / STAGES).is_file() and (path / "recipe.yaml").is_file()


def _own_file(path: str, _: int) -> int:
    """An opener: for reading and writing, a new file its owner's alone, through no link."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK  # a pipe would hold this process up
    return os.open(path, flags | os.O_NOFOLLOW, OWN)
