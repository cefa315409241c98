"""A recipe as it leaves its launcher's machine: it names no folder there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedtune.recipe.data import EMBEDDED, Source
from fedtune.recipe.schema import Recipe
from fedtune.recipe.source import with_folders

LEFT_OUT = "run"  # in place of the run's folder


def leaving(recipe: Recipe) -> Recipe:
    """The recipe without the launcher's paths: of a file or a folder its name alone is left.

    A node has rows, folders and a device of its own, and takes none of the launcher's. A recipe
    that has left already is left as it is.
    """
    data, federation = recipe.data, recipe.federation
    changes: dict[str, Any] = {
        "data": data.model_copy(update={"source": _source(data.source)}),
        "federation": federation.model_copy(update={"deployment": None}),
        "output_dir": Path(LEFT_OUT),
        "report_to": [],
    }
    return with_folders(recipe.model_copy(update=changes), _name)


def differences(ours: Recipe, theirs: Recipe) -> Iterator[tuple[str, object, object]]:
    """The keys at which two recipes differ, as they leave, each with what the two say."""
    here, there = (dict(_flat(leaving(each).model_dump(mode="json"))) for each in (ours, theirs))
    for key in sorted(here.keys() | there.keys()):
        if here.get(key) != there.get(key):
            yield key, here.get(key), there.get(key)


def _flat(value: object, key: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from _flat(part, f"{key}.{name}" if key else str(name))
    else:
        yield key, value


def _source(source: str | Source) -> str | Source:
    if isinstance(source, str):
        return source if source in EMBEDDED else _name(source)
    files = source.data_files
    named = [_name(file) for file in files] if isinstance(files, list) else files and _name(files)
    return source.model_copy(update={"path": _name(source.path), "data_files": named})


def _name(path: str) -> str:
    """The last part of a path; a hub's name, `owner/name`, and an address are none."""
    is_path = path.startswith(("/", "~", ".")) or "\\" in path
    return Path(path.replace("\\", "/")).name or LEFT_OUT if is_path else path
