"""The one worker of a process: made at the first message that needs it, and kept."""

from __future__ import annotations

from functools import lru_cache

from fedtune.recipe import Recipe, parse_recipe
from fedtune.training.adapted import trained_parameters
from fedtune.training.trainer import UNSEEN
from fedtune.training.worker import Worker

_kept: dict[str, Worker] = {}


@lru_cache(maxsize=8)
def read_recipe(recipe_json: str) -> Recipe:
    """The recipe in a message, read once."""
    return parse_recipe(recipe_json)


@lru_cache(maxsize=8)
def count_trained(recipe_json: str) -> int:
    """Numbers that a client trains and sends, counted before a weight is loaded.

    Raises:
        OSError: If there is no configuration, or the hub does not give it.
        ValueError: If transformers knows no such model, or no module is adapted.
    """
    return trained_parameters(read_recipe(recipe_json))


def get_worker(recipe_json: str, *, own: int | None = None) -> Worker:
    """The worker of this process for a recipe, made at the first call and kept.

    Recipes that differ only in what a worker never looks at share one.

    Args:
        recipe_json: As it travels.
        own: The one client whose rows all those of the source are; None: they are dealt to all.
    """
    recipe = read_recipe(recipe_json)
    key = f"{own} {recipe.model_dump_json(exclude=UNSEEN)}"
    if key not in _kept:
        _kept.clear()
        _kept[key] = Worker(recipe, own=own)
    return _kept[key]


def load_libraries() -> None:
    """Import TRL and what it stands on, which takes seconds, before anything is timed."""
    from peft import PeftModel  # noqa: F401
    from trl import SFTTrainer  # noqa: F401


def drop_workers() -> None:
    """Let this process's base model go, before another is loaded for a while."""
    _kept.clear()
