"""The hash by which a run's folder knows its recipe."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fedtune.recipe.schema import Recipe
from fedtune.recipe.section import Section
from fedtune.recipe.source import with_folders

_OF_DATA = ("columns", "system", "eval_source")
_OF_LORA = (
    "exclude_modules", "target_parameters", "layers_to_transform", "layers_pattern", "bias",
    "use_dora", "init_lora_weights", "rank_pattern", "alpha_pattern",
)  # fmt: skip


def hash_recipe(recipe: Recipe) -> str:
    """SHA-256 of what a recipe says, wherever the folders lie that it names.

    Of a model's or an adapter's folder the name counts alone: what is in it has hashes of its own.
    """
    said = with_folders(recipe, lambda path: Path(path).name)
    told = said.model_dump_json(
        exclude={
            "output_dir": True,
            "report_to": True,
            "data": _unsaid(recipe.data, *_OF_DATA),
            "federation": _unsaid(recipe.federation, "keep_replies"),
            "lora": _unsaid(recipe.lora, *_OF_LORA),
        }
    )
    return hashlib.sha256(told.encode()).hexdigest()


def _unsaid(section: Section, *younger: str) -> set[str]:
    """Keys that are younger than some run folders: they count where they are set."""
    plain = type(section)()
    return {key for key in younger if getattr(section, key) == getattr(plain, key)}
