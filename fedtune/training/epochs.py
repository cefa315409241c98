"""How many steps a client's epochs are, before a tokenizer or a model is loaded."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch

from fedtune.recipe import Recipe, Source
from fedtune.recipe.source import parse_recipe
from fedtune.training.client_data import ClientData
from fedtune.training.plan import Plan
from fedtune.training.tasks import TASKS, Learner


def most_steps(recipe: Recipe, *, own: bool) -> int:
    """Steps of a client in a round, at most: rows that may turn out too long are counted too.

    Args:
        recipe: Says epochs, or steps; its source is here.
        own: Whether all rows of the source are one client's; else it is the client with most rows.

    Raises:
        FileNotFoundError, ValueError: If the rows cannot be read or dealt.
    """
    if recipe.federation.local_steps is not None:
        return recipe.federation.local_steps
    return steps_of_rows(recipe, most_rows(recipe, own=own))


def steps_of_rows(recipe: Recipe, num_rows: int) -> int:
    """Steps of a client in a round that trains on so many rows."""
    plan = Plan.of(recipe, torch.device("cpu"), torch.float32)
    return plan.counted(num_rows, TASKS[recipe.task].steps_for).local_steps


def most_rows(recipe: Recipe, *, own: bool) -> int:
    """Training rows of the client with most of them; arguments and errors are `most_steps`'s."""
    return _most_rows(recipe.model_dump_json(), own, _stamp(recipe.data.source))


@lru_cache(maxsize=8)
def _most_rows(recipe_json: str, own: bool, stamp: object) -> int:
    nobody = cast("Learner", None)  # no row is tokenised
    data = ClientData(parse_recipe(recipe_json), nobody, own=0 if own else None)
    return max(len(part.train) for part in data.parts.values())


def _stamp(source: str | Source) -> Any:  # noqa: ANN401
    """Size and time of a source that is one file: another content is counted anew."""
    path = Path(source.path if isinstance(source, Source) else source)
    if not path.is_file():
        return None
    found = path.stat()
    return found.st_size, found.st_mtime_ns
