"""A first look at somebody's data: how many rows, which columns, and what they can be used for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedtune.training.formats import LIKELY_PROMPTS, brought, chosen_columns
from fedtune.training.sources import read_source
from fedtune.training.tasks import TASKS
from fedtune.training.tasks.task import Task

if TYPE_CHECKING:
    from datasets import Dataset

_SAMPLE = 64  # rows that tell the format
_LIKELY: Mapping[str, Sequence[str]] = {
    "prompt": ("prompt", *LIKELY_PROMPTS),
    "completion": ("completion", "answer", "response", "output", "target", "reply", "summary"),
    "chosen": ("chosen", "preferred", "better", "accepted"),
    "rejected": ("rejected", "dispreferred", "worse", "refused"),
    "text": ("text", "content", "document", "body"),
}


@dataclass(frozen=True)
class FirstLook:
    """What a source holds.

    Attributes:
        rows: How many.
        columns: Their names, in order.
        fits: By task the ``data.columns`` with which the rows are in one of its formats; none
            needed: empty. A task that no guess fits is left out.
        ids: Columns that may say whose row it is, with how many values each has.
    """

    rows: int
    columns: tuple[str, ...]
    fits: Mapping[str, Mapping[str, str]]
    ids: Mapping[str, int]


def look_at(source: str) -> FirstLook:
    """Read a source and say what it may be used for.

    Raises:
        FileNotFoundError: If it is not there, with what to do.
        ValueError: If it cannot be read, or has no rows.
    """
    rows = read_source(source, "sft")
    if len(rows) == 0:
        raise ValueError(f"data.source: {source} needs rows; got none")
    guesses = {name: _guess(_for(source, rows, name), task) for name, task in TASKS.items()}
    fits = {name: columns for name, columns in guesses.items() if columns is not None}
    used = {column for columns in fits.values() for column in columns.values()}
    return FirstLook(len(rows), tuple(rows.column_names), fits, _ids(rows, used))


def _for(source: str, rows: Dataset, task: str) -> Dataset:
    """The rows for a task: of what is read from the running Python each has its own."""
    return read_source(source, task) if source == "python-docs" else rows


def fits_with(source: str, task: str, columns: Mapping[str, str]) -> bool:
    """Whether the rows are in one of the task's formats once their columns are renamed so."""
    return _is_format(read_source(source, task), TASKS[task], columns)


def _guess(rows: Dataset, task: Task) -> dict[str, str] | None:
    """How the columns are to be called so that the task reads them."""
    if _is_format(rows, task, {}):
        return {}
    for wanted in task.columns:
        found = {name: _likely(name, rows.column_names) for name in sorted(wanted)}
        columns = {name: column for name, column in found.items() if column}
        if len(set(columns.values())) == len(wanted) and _is_format(rows, task, columns):
            return {name: column for name, column in columns.items() if name != column}
    return None


def _is_format(rows: Dataset, task: Task, columns: Mapping[str, str]) -> bool:
    sample = rows.select(range(min(len(rows), _SAMPLE)))
    try:
        made = brought(sample, task, columns)
    except (ValueError, KeyError, TypeError):
        return False
    return chosen_columns(set(made.column_names), task) is not None


def _likely(name: str, columns: Sequence[str]) -> str:
    lower = {column.lower(): column for column in columns}
    return next((lower[each] for each in _LIKELY.get(name, (name,)) if each in lower), "")


def _ids(rows: Dataset, used: set[str]) -> dict[str, int]:
    """Columns of short values, each of which several rows share."""
    from datasets import Value

    found = {}
    for name, feature in rows.features.items():
        if name in used or not isinstance(feature, Value) or feature.dtype.startswith("float"):
            continue
        values = rows.unique(name)
        is_short = all(len(str(value)) <= 100 for value in values)
        if is_short and None not in values and 2 <= len(values) <= len(rows) // 2:
            found[name] = len(values)
    return found
