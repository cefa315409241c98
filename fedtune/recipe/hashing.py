"""The hash by which a run's folder knows its recipe."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedtune.recipe.data import Data, Source
from fedtune.recipe.schema import Recipe
from fedtune.recipe.section import Section
from fedtune.recipe.source import with_folders

# Keys that are younger than some run folders, by section: they count where they are set.
YOUNGER: dict[str, tuple[str, ...]] = {
    "model": ("attn_implementation",),
    "data": ("columns", "system", "eval_source"),
    "federation": ("keep_replies", "local_epochs"),
    "lora": (
        "exclude_modules", "target_parameters", "layers_to_transform", "layers_pattern", "bias",
        "use_dora", "init_lora_weights", "rank_pattern", "alpha_pattern",
    ),
}  # fmt: skip


def hash_recipe(recipe: Recipe) -> str:
    """SHA-256 of what a recipe says, wherever the folders lie that it names.

    Of a model's or an adapter's folder the name counts alone: what is in it has hashes of its own.
    """
    said = with_folders(recipe, lambda path: Path(path).name)
    unsaid: dict[str, dict[str, Any]] = {
        section: dict.fromkeys(_unsaid(getattr(recipe, section), keys), True)
        for section, keys in YOUNGER.items()
    }
    unsaid["data"] = _of_sources(recipe.data) | unsaid["data"]
    told = said.model_dump_json(exclude={"output_dir": True, "report_to": True, **unsaid})
    return hashlib.sha256(told.encode()).hexdigest()


def _unsaid(section: Section, keys: Iterable[str]) -> set[str]:
    plain = type(section)()
    return {key for key in keys if getattr(section, key) == getattr(plain, key)}


def _of_sources(data: Data) -> dict[str, set[str]]:
    """The younger key of sources, of those that do not say it."""
    sources = {"source": data.source, "eval_source": data.eval_source}
    return {
        key: {"take"}
        for key, source in sources.items()
        if isinstance(source, Source) and source.take is None
    }
