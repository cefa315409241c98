"""Where rows come from: the running Python, files, a saved folder, the hub."""

from __future__ import annotations

import glob
import hashlib
import json
import warnings
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedtune.nano import python_tasks
from fedtune.recipe import Data, Source
from fedtune.recipe.beside import looked_in
from fedtune.recipe.data import EMBEDDED
from fedtune.seeds import derive
from fedtune.training.formats import MARGIN, brought, chosen_columns, hint_of_columns
from fedtune.training.tasks.task import Task
from fedtune.training.text_files import check_text, first_broken, matches, patterns_of

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

_IN_MEMORY_BYTES = 2**30  # of rows; more are mapped from their file
_BUILDERS = {"json", "csv", "parquet", "text", "arrow"}  # of datasets, for files
KINDS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


def keep_no_copies() -> None:
    """Have prepared rows kept in memory, or in files that end with this process.

    The cache of datasets knows them by 64 bits of a hash that resists nobody, over what a server
    chose too, and keeps a copy of them for every such choice.
    """
    import datasets

    datasets.disable_caching()
    datasets.config.IN_MEMORY_MAX_SIZE = _IN_MEMORY_BYTES


def load_rows(data: Data, task: Task, *, seed: int) -> Dataset:
    """The rows of a recipe's source, in a fixed order, in one of TRL's formats.

    Args:
        data: The recipe's section.
        task: What the rows are for.
        seed: Draws the rows if ``max_rows`` asks for fewer than there are.

    Raises:
        FileNotFoundError: If the source is not there, with what to do.
        ValueError: If its columns are in none of TRL's formats.
    """
    rows = read_rows(data, task)
    return rows.select(draw(data, len(rows), seed=seed))


def read_rows(data: Data, task: Task) -> Dataset:
    """All rows of a source, as `load_rows` has them before ``max_rows`` draws some."""
    rows = read_source(data.source, task.name)
    if len(rows) > 0:
        rows = brought(rows, task, data.columns, fold_system=data.system == "fold")
    check_format(rows, task)
    return rows


def draw(data: Data, count: int, *, seed: int) -> Sequence[int]:
    """The numbers of the rows that are used, of so many, in the order in which they are."""
    if data.max_rows is None or data.max_rows >= count:
        return range(count)
    order = np.random.default_rng(derive(seed, "max_rows")).permutation(count)
    return [int(place) for place in order[: data.max_rows]]


def check_format(rows: Dataset, task: Task) -> None:
    """Refuse rows that none of the task's formats describes.

    Raises:
        ValueError: Naming the columns that are needed and those that are there, or the column
            that holds something else than text or messages.
    """
    from datasets import Value

    chosen = chosen_columns(set(rows.column_names), task)
    if chosen is None:
        need = " or ".join("+".join(sorted(columns, key=_in_order)) for columns in task.columns)
        raise ValueError(
            f"data.source: task {task.name} needs columns {need}; "
            f"got {', '.join(rows.column_names)}; {hint_of_columns(rows, task)}"
        )
    if len(rows) == 0:
        raise ValueError("data.source needs rows; got none")
    if task.name == "reward" and MARGIN in rows.features:
        _check_margin(rows)
    for column in sorted(chosen):
        feature = rows.features[column]
        is_text = getattr(feature, "dtype", None) in {"string", "large_string"}
        is_list = not isinstance(feature, Value)
        if not {"text": is_text, "messages": is_list}.get(column, is_text or is_list):
            kind = {"text": "text", "messages": "lists of messages"}.get(column, "text or messages")
            raise ValueError(
                f"data.source: column {column!r} needs {kind}; "
                f"got {getattr(feature, 'dtype', feature)}"
            )
        _refuse_empty(rows, column)


def _check_margin(rows: Dataset) -> None:
    dtype = getattr(rows.features[MARGIN], "dtype", "lists")
    if not dtype.startswith(("int", "uint", "float")):
        raise ValueError(f"data.source: column {MARGIN!r} needs numbers; got {dtype}")
    _refuse_empty(rows, MARGIN)
    infinite = np.flatnonzero(~np.isfinite(np.asarray(rows[MARGIN], dtype=float)))
    if infinite.size:
        raise ValueError(f"data.source: row {infinite[0]}: column {MARGIN!r} needs a finite number")


def _refuse_empty(rows: Dataset, column: str) -> None:
    values = rows.data.column(column)
    if empty := values.null_count:
        first = values.is_null().index(True).as_py()
        raise ValueError(
            f"data.source: column {column!r} needs a value in each row; got {empty} empty "
            f"of {len(rows)}; take these rows out, row {first} first"
        )


def _in_order(column: str) -> tuple[bool, str]:
    """The prompt comes first, as in the data."""
    return column != "prompt", column


def hash_rows(rows: Dataset) -> str:
    """SHA-256 over the content of the rows, in order."""
    digest = hashlib.sha256()
    for batch in rows.iter(batch_size=1000):
        digest.update(json.dumps(batch, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def find_source(source: str | Source) -> str:
    """Say what a source is, without reading it: one of `EMBEDDED`, file, folder or hub.

    Raises:
        FileNotFoundError: If a path is named and nothing is there.
    """
    if isinstance(source, str) and source in EMBEDDED:
        return source
    if isinstance(source, Source):
        if source.path in _BUILDERS or Path(source.path).expanduser().is_dir():
            for file in patterns_of(source):
                if "://" not in file and not matches(source, file):
                    raise FileNotFoundError(
                        f"data.source.data_files: no file {file}{looked_in(file)}"
                    )
        return source.path
    path = Path(source).expanduser()
    if path.is_dir():
        return "folder"
    if path.suffix in KINDS:
        if not path.is_file():
            raise FileNotFoundError(f"data.source: no file {path}{looked_in(path)}")
        return KINDS[path.suffix]
    if path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
        raise FileNotFoundError(
            f"data.source: nothing at {path}{looked_in(path)}; name a .json, .jsonl, .csv or "
            f".parquet file, a saved folder, a hub name, or python-docs"
        )
    return "hub"


def read_source(source: str | Source, task: str) -> Dataset:
    """The rows of a source as they are, in no format yet.

    Args:
        source: As the recipe has it.
        task: Its name; what is read from the running Python depends on it.

    Raises:
        FileNotFoundError: If the source is not there, with what to do.
        ValueError: If it cannot be read.
    """
    from datasets import Dataset

    kind = find_source(source)
    if kind in EMBEDDED:
        return Dataset.from_list(python_tasks.rows_for(task, kind))
    check_text(source)
    try:
        return _read(source, kind)
    except ValueError as error:
        if broken := first_broken(source):
            raise ValueError(f"data.source: {broken}") from error
        raise


def _read(source: str | Source, kind: str) -> Dataset:
    """The rows of files, a folder or the hub."""
    if isinstance(source, Source):
        if Path(source.path).is_dir() and _is_saved(Path(source.path)):
            rows = _from_disk(Path(source.path), source.split)
            return rows.select(range(min(source.take or len(rows), len(rows))))
        return _from_datasets(
            source.path, name=source.name, data_files=patterns_of(source) or None,
            split=source.split, revision=source.revision, take=source.take,
        )  # fmt: skip
    path = Path(source).expanduser()
    if kind == "folder":
        if _is_saved(path):
            return _from_disk(path, "train")
        if glob.has_magic(str(path)):
            raise ValueError(f"data.source: {path}: rename the folder: datasets takes [, * and ? "
                             f"for a pattern")  # fmt: skip
        return _from_datasets(str(path))
    if kind == "hub":
        return _from_datasets(source)
    return _from_datasets(kind, data_files=glob.escape(str(path)))


def _is_saved(folder: Path) -> bool:
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def _from_disk(folder: Path, split: str) -> Dataset:
    from datasets import DatasetDict, load_from_disk

    found = load_from_disk(str(folder))
    if isinstance(found, DatasetDict):
        if split not in found:
            raise FileNotFoundError(f"{folder} needs a split {split!r}; got {', '.join(found)}")
        return found[split]
    return found


def _first(stream: IterableDataset, count: int) -> Dataset:
    """So many rows of a stream, in memory; fewer where it has no more.

    Files are read in pieces of the reader's own, of JSON 10 MB. Row by row (0.2 ms each): in
    batches, or with its own `take`, datasets opens the next file to see whether a batch goes on.
    """
    import pyarrow  # type: ignore[import-untyped]
    from datasets import Dataset

    rows = list(islice(stream.with_format("arrow"), count))
    if not rows:
        raise ValueError("it is empty")
    # An ArrowInvalid, of pieces with other types of columns, is a ValueError.
    return Dataset(pyarrow.concat_tables(rows, promote_options="default").combine_chunks())


def _from_datasets(
    path: str,
    *,
    name: str | None = None,
    data_files: str | list[str] | None = None,
    split: str = "train",
    revision: str | None = None,
    take: int | None = None,
) -> Dataset:
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

    try:
        with warnings.catch_warnings():
            # The csv reader leaves the closing of its file to Python.
            warnings.filterwarnings("ignore", "unclosed file", ResourceWarning)
            found = load_dataset(
                path, name, data_files=data_files, split=split, revision=revision,
                streaming=take is not None,
            )  # fmt: skip
            return found if take is None else _first(found, take)
    except (DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"data.source: {path!r} was not found here or on the hub ({error}); "
            f"name a file, a saved folder, or python-docs"
        ) from error
    except (DatasetGenerationError, StopIteration, TypeError, ValueError) as error:
        raise ValueError(
            f"data.source: {data_files or path} could not be read as {path}, split {split!r}: "
            f"{error.__cause__ or str(error) or 'it is empty'}"
        ) from error
