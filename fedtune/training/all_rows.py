"""All rows of a recipe in one table: those that are dealt, and after them those of eval_source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedtune.recipe import Recipe, Source
from fedtune.training.formats import chosen_columns, kept_columns
from fedtune.training.rewards import check_rewards
from fedtune.training.sources import draw, read_rows
from fedtune.training.tasks.task import Task
from fedtune.training.turns import is_list

if TYPE_CHECKING:
    from datasets import Dataset

_SHOWN = 8  # rows that are named


@dataclass(frozen=True, eq=False)
class AllRows:
    """The rows of a recipe.

    Attributes:
        table: The rows.
        places: Where the dealt ones, which come first, stand in the source, from 0.
        sources: The source, and eval_source, by name.
        read: How many rows were read of either, by its key.
    """

    table: Dataset
    places: Sequence[int]
    sources: tuple[str, str]
    read: dict[str, int]

    @property
    def held_out(self) -> range:
        """Numbers of the rows of eval_source; none where there is no such source."""
        return range(len(self.places), len(self.table))

    def named(self, row: int) -> str:
        """A row of the table by its key, its place in the source and the source's name."""
        if row < len(self.places):
            return f"data.source: row {self.places[row]} of {self.sources[0]}"
        return f"data.eval_source: row {row - len(self.places)} of {self.sources[1]}"

    def several(self, rows: Sequence[int]) -> str:
        """Some dealt rows by their places in the source, the first of them where there are many."""
        shown = ", ".join(str(self.places[row]) for row in rows[:_SHOWN])
        more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
        return f"row{'s' if len(rows) > 1 else ''} {shown}{more} of {self.sources[0]}"


def read_all(recipe: Recipe, task: Task) -> AllRows:
    """Read the sources of a recipe, in a fixed order.

    Raises:
        FileNotFoundError, ValueError: As `load_rows` does; of eval_source under its own key, also
            if it has not the columns that are read of the source.
    """
    data = recipe.data
    rows = read_rows(data, task)
    read = {"source": len(rows)}
    places = draw(data, len(rows), seed=recipe.federation.seed)
    rows = rows.select(places)
    names = (_name_of(data.source), _name_of(data.eval_source or ""))
    if data.eval_source is None:
        return AllRows(rows, places, names, read)
    try:
        more = read_rows(data.model_copy(update={"source": data.eval_source}), task)
        check_rewards(recipe.rewards, more.column_names)
        return AllRows(
            _beneath(rows, more, task), places, names, {**read, "eval_source": len(more)}
        )
    except (FileNotFoundError, ValueError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(str(error).replace("data.source", "data.eval_source", 1)) from error


def _beneath(rows: Dataset, more: Dataset, task: Task) -> Dataset:
    """The rows, and beneath them what is read of more rows."""
    from datasets import Features, Json, List, concatenate_datasets

    read, there = kept_columns(rows, task), kept_columns(more, task)
    if chosen_columns({*there}, task) != chosen_columns({*read}, task) or {*read} != {*there}:
        raise ValueError(
            f"data.source: needs columns {', '.join(read)}, as data.source has: got "
            f"{', '.join(there)}"
        )
    names = [name for name in rows.column_names if name in more.column_names]
    more = more.select_columns(names)
    for name in read:
        if is_list(rows, name) is not is_list(more, name):
            kind = "turns" if is_list(rows, name) else "text"
            raise ValueError(f"data.source: column {name!r} needs {kind}, as in data.source")
    odd = [name for name in names if is_list(rows, name) and is_list(more, name)
           and rows.features[name] != more.features[name]]  # fmt: skip
    if odd:  # turns with other keys
        wide = {name: List(Json()) for name in odd}
        rows, more = (
            each.map(lambda row: dict(row), features=Features({**each.features, **wide}))
            for each in (rows, more)
        )
    return concatenate_datasets(
        [rows, more.cast(Features({name: rows.features[name] for name in names}))]
    )


def _name_of(source: str | Source) -> str:
    return source.path if isinstance(source, Source) else Path(source).name
