"""Paths in a recipe: looked for beside its file first, then in the working folder."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedtune.recipe.data import EMBEDDED
from fedtune.recipe.reading import read_mapping

_NAMES = {"nano", "base", "initial_adapter", *EMBEDDED}  # that are no paths, whatever lies there
_read: ContextVar[Path | None] = ContextVar("folder of the recipe that was read last", default=None)
_judged: ContextVar[Beside | None] = ContextVar("of the recipe that is judged", default=None)


@dataclass(frozen=True)
class Beside:
    """The folder in which a recipe's file lies; recipes that differ in it alone are equal."""

    folder: Path | None = field(default=None, compare=False)


def where_read() -> Beside:
    """Of the recipe that is made of what was read last."""
    return Beside(_read.get())


@contextmanager
def judging(beside: Beside) -> Iterator[None]:
    """Within it `looked_in` speaks of one recipe, whatever is read meanwhile."""
    token = _judged.set(beside)
    try:
        yield
    finally:
        _judged.reset(token)


def read_with_paths(path: Path) -> dict[str, Any]:
    """Read a recipe, with the files and folders that lie beside it named by their whole path.

    What is not beside it stays as it is: a hub's name, or a path from the working folder.

    Args:
        path: Of a file of the user's own; not of one in a run's folder, which may be a stranger's.

    Raises:
        RecipeError: If it is not readable, or no mapping.
    """
    folder = path.absolute().parent
    _read.set(folder)
    return with_paths(read_mapping(path))


def read_shipped(path: Path) -> dict[str, Any]:
    """Read a recipe that comes with fedtune: its paths are of the working folder."""
    _read.set(None)
    return read_mapping(path)


def read_given(given: Mapping[str, Any]) -> dict[str, Any]:
    """Take a recipe that lies in no file: its paths are of the working folder."""
    _read.set(None)
    return dict(given)


def with_paths(raw: dict[str, Any], *, here_first: bool = False) -> dict[str, Any]:
    """A recipe with what lies beside the file that was read last named by its whole path.

    Args:
        raw: As YAML has it.
        here_first: Leave alone what is in the working folder: an override was typed there.
    """
    folder = _read.get()
    if folder in (None, Path.cwd()):
        return raw
    return _resolved(raw, folder, here_first)


def looked_in(path: str | Path) -> str:
    """Where a path of a recipe was looked for, to follow a message.

    The recipe is the one that is judged (`judging`), else the one that was read last.

    Args:
        path: As the recipe has it; an absolute one was looked for in its own place alone.
    """
    if Path(path).expanduser().is_absolute():
        return ""
    judged, here = _judged.get(), Path.cwd()
    beside = _read.get() if judged is None else judged.folder
    also = "" if beside in (None, here) else f"{beside}, then in "
    return f"; looked in {also}{here}"


def _resolved(raw: dict[str, Any], folder: Path, here_first: bool) -> dict[str, Any]:
    raw = copy.deepcopy(raw)
    stages = [each for each in _list(raw, "stages") if isinstance(each, dict)]
    names = {each.get("name") for each in stages}  # a stage is meant, whatever lies there
    for recipe in (raw, *stages):
        for key in ("initial_adapter", "reference"):
            if recipe.get(key) not in names:
                _place(recipe, key, folder, here_first)
        _place(_section(recipe, "model"), "name_or_path", folder, here_first)
        _place(_section(recipe, "federation"), "deployment", folder, here_first)
        for reward in _list(recipe, "rewards"):
            if isinstance(reward, dict) and reward.get("adapter") not in names:
                _place(reward, "adapter", folder, here_first)
        data = _section(recipe, "data")
        for key in ("source", "eval_source"):
            _place(data, key, folder, here_first)
            source = _section(data, key)
            _place(source, "data_files", folder, here_first)
            if not source.get("data_files") or "/" in str(source.get("path")):  # else `json` say
                _place(source, "path", folder, here_first)
    return raw


def _place(section: dict[str, Any], key: str, folder: Path, here_first: bool) -> None:
    said = section.get(key)
    if isinstance(said, list):
        section[key] = [_beside(each, folder, here_first) for each in said]
    elif said is not None:
        section[key] = _beside(said, folder, here_first)


def _beside(said: object, folder: Path, here_first: bool) -> object:
    """The whole path of what lies beside; all else as it is."""
    if not isinstance(said, str) or not said or "://" in said or said in _NAMES:
        return said
    if Path(said).is_absolute() or said.startswith("~"):
        return said
    if (here_first and _is_in(Path.cwd(), said)) or not _is_in(folder, said):
        return said
    return str(folder / said)


def _is_in(folder: Path, said: str) -> bool:
    try:
        return (folder / said).exists() or ("*" in said and any(folder.glob(said)))
    except (OSError, ValueError, NotImplementedError):  # too long, or no pattern
        return False


def _section(raw: dict[str, Any], key: str) -> dict[str, Any]:
    section = raw.get(key)
    return section if isinstance(section, dict) else {}


def _list(raw: dict[str, Any], key: str) -> list[Any]:
    found = raw.get(key)
    return found if isinstance(found, list) else []
