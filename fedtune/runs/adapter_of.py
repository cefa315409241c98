"""Find the adapter that a path means, and the recipe that made it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedtune.recipe import Recipe, load_recipe
from fedtune.recipe.source import read_run_recipe
from fedtune.records.folder import holds_stages

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True)
class Found:
    """An adapter folder, and its recipe if one is known."""

    folder: Path
    recipe: Recipe | None


def find_adapter(path: Path, recipe: str | None = None) -> Found:
    """The adapter behind a run folder or an adapter folder.

    Args:
        path: Either of them.
        recipe: Name or path of a recipe; default: the run's own.

    Raises:
        FileNotFoundError: If there is no adapter, with what to do.
        ValueError: If the recipe describes another adapter than the one found.
    """
    folder = path if (path / CONFIG).is_file() else path / "adapter"
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        hint = ""
        if holds_stages(path):
            hint = f"; it is of several stages: name the folder of one, {path}/STAGE"
        elif (path / "recipe.yaml").is_file():
            hint = f"; the run is not finished: fedtune run --resume {path}"
        raise FileNotFoundError(f"{path} holds no adapter ({CONFIG}, {WEIGHTS}){hint}")
    beside = folder.parent / "recipe.yaml"
    if recipe is None:
        return Found(folder, read_run_recipe(folder.parent) if beside.is_file() else None)
    loaded = load_recipe(recipe)
    _check_same_lora(folder, loaded)
    return Found(folder, loaded)


def base_of(found: Found) -> str:
    """The base model's name or folder: the recipe's word, else the adapter's own."""
    if found.recipe is not None:
        return found.recipe.model.name_or_path
    return str(_read_config(found.folder)["base_model_name_or_path"])


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG} is damaged ({error})") from error
    return config


def _check_same_lora(folder: Path, recipe: Recipe) -> None:
    config = _read_config(folder)
    keys = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "bias")
    for key in keys:
        ours = getattr(recipe.lora, key)
        if (config.get(key, ours) or None) != (ours or None):  # older folders may have null
            raise ValueError(f"lora.{key}: the adapter has {config[key]}, the recipe says {ours}")
