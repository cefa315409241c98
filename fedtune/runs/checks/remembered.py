"""Checks that took seconds and found nothing, kept in the user's cache with what they depend on."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points, version
from pathlib import Path

from fedtune.durable import make_folder, put_in_place, read_whole, write_beside
from fedtune.nano.python_docs import cache_file
from fedtune.origin import code_hash, machine
from fedtune.recipe import Recipe
from fedtune.recipe.data import EMBEDDED
from fedtune.recipe.reward import EntryPointReward, ModelReward
from fedtune.training.base import find_here

LIBRARIES = ("torch", "transformers", "peft", "trl", "datasets", "flwr-datasets")
PLUGINS = ("fedtune.aggregators", "fedtune.attacks")
_SIDE = {"output_dir", "report_to"}  # where a run goes, and to whom it reports
_PRIVATE_FOLDER, _PRIVATE_FILE = 0o700, 0o600


def name_of(recipes: Sequence[Recipe]) -> str | None:
    """A hash of all that the checks of these recipes depend on.

    That is the recipes, the model's files, the libraries, the code, the machine and its devices.

    Returns:
        64 hex digits; None where they depend on what is not on this machine, or may change there
        unseen: rows that are not embedded, a model of the hub that is not here, an adapter, a
        reward or a rule of another package.
    """
    if not all(map(_is_bound, recipes)):
        return None
    facts = {
        "recipes": [each.model_dump(mode="json", exclude=_SIDE) for each in recipes],
        "models": [list(_files(each)) for each in recipes],
        "libraries": {name: version(name) for name in LIBRARIES},
        "code": code_hash(),
        "machine": machine(),
        "devices": [
            *sorted(glob.glob("/dev/nvidia[0-9]*")),
            os.environ.get("CUDA_VISIBLE_DEVICES"),
        ],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def recall(name: str) -> list[str] | None:
    """The lines kept under this name; None if there are none, or the file is damaged."""
    try:
        kept = json.loads(read_whole(_path(name)))
    except (OSError, ValueError, RecursionError):
        return None
    lines = kept.get("lines") if isinstance(kept, dict) and kept.get("name") == name else None
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        return None
    return lines


def keep(name: str, lines: Sequence[str]) -> None:
    """Keep what the checks had to say; where the cache cannot be written, nothing is kept."""
    path = _path(name)
    try:
        make_folder(path.parent, mode=_PRIVATE_FOLDER)
        text = json.dumps({"name": name, "lines": list(lines)})
        put_in_place(write_beside(path, text, mode=_PRIVATE_FILE), path)
    except OSError:
        return


def _path(name: str) -> Path:
    return cache_file().parent / "checks" / f"{name}.json"


def _is_bound(recipe: Recipe) -> bool:
    embedded = recipe.data.source in EMBEDDED and recipe.data.eval_source is None
    if not embedded or find_here(recipe.model) is None:
        return False
    elsewhere = any(isinstance(each, EntryPointReward | ModelReward) for each in recipe.rewards)
    adapters = recipe.initial_adapter is not None or recipe.reference != "base"
    return not elsewhere and not adapters and not any(entry_points(group=g) for g in PLUGINS)


def _files(recipe: Recipe) -> Iterator[tuple[str, int, int]]:
    """Name, size and time of each file of the model that is here."""
    folder = find_here(recipe.model)
    assert folder is not None
    for path in sorted(folder.iterdir()):
        found = path.stat()
        yield path.name, found.st_size, found.st_mtime_ns
