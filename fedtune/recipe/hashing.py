"""The hash by which a run's folder knows its recipe."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fedtune.recipe.schema import Recipe
from fedtune.recipe.source import with_folders


def hash_recipe(recipe: Recipe) -> str:
    """SHA-256 of what a recipe says, wherever the folders lie that it names.

    Of a model's or an adapter's folder the name counts alone: what is in it has hashes of its own.
    """
    said = with_folders(recipe, lambda path: Path(path).name)
    told = said.model_dump_json(exclude={"output_dir": True, "report_to": True, **_unsaid(recipe)})
    return hashlib.sha256(told.encode()).hexdigest()


def _unsaid(recipe: Recipe) -> dict[str, set[str]]:
    """Keys that are younger than some run folders, by section: they count where they are set."""
    young: dict[str, dict[str, object]] = {
        "federation": {"keep_replies": recipe.federation.keep_replies},
        "data": {
            "columns": recipe.data.columns,
            "system": recipe.data.system != "keep",
            "eval_source": recipe.data.eval_source,
        },
    }
    return {
        section: {key for key, is_set in keys.items() if not is_set}
        for section, keys in young.items()
    }
