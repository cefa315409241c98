"""Whether PEFT makes of a run's adapter what the run made: its configuration and other files.

The hash in the record is of the tensors alone. What they are multiplied by, where they go, and what
is imported to load them, stands in a file beside them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from fedtune.adapters.configuration import added_by_peft, facts_of
from fedtune.durable import read_whole
from fedtune.recipe import Model, Recipe
from fedtune.round.screening.screen import printable
from fedtune.training.tasks import TASKS
from fedtune.trust.adapter_targets import are_parameters, are_patterns, are_targets
from fedtune.trust.finding import Finding

CONFIG = "adapter_config.json"
MAX_BYTES = 2**20
BASE = "base_model_name_or_path"
# Of the versions that wrote it; PEFT sets the last two by the model.
_ELSEWHERE = {
    "peft_version",
    "inference_mode",
    "fan_in_fan_out",
    "ensure_weight_tying",
}
_COMMIT = re.compile(r"[0-9a-f]{40}")  # of the hub; a branch's name is in no path
_OTHER_WEIGHTS = ("*.bin", "*.safetensors", "*.pt", "*.pth", "*.py")


def check_config(adapter: Path, tensors: Collection[str], recipe: Recipe) -> Iterator[Finding]:
    """Hold ``adapter_config.json`` against the recipe, key by key.

    Args:
        adapter: The folder.
        tensors: The names of its tensors.
        recipe: The run's.
    """
    path = adapter / CONFIG
    try:
        said = json.loads(read_whole(path, most=MAX_BYTES))
        if not isinstance(said, dict):
            raise ValueError("it is no object")
    except (OSError, ValueError, RecursionError) as error:
        yield Finding(f"{path} is none: {type(error).__name__}")
        return
    task_type = TASKS[recipe.task].peft_type
    need = facts_of(recipe.lora, task_type=task_type)
    for key in sorted(said.keys() | need.keys()):
        if key in _ELSEWHERE:
            continue
        if key == BASE:
            same = _is_base(said.get(key), recipe.model)
        elif key == "target_modules":
            same = are_targets(said.get(key), tensors, recipe.lora)
        elif key == "target_parameters":
            same = are_parameters(said.get(key), tensors, recipe.lora)
        elif key in {"rank_pattern", "alpha_pattern"}:
            same = are_patterns(key, said, recipe.lora)
        elif key == "modules_to_save":
            same = _saves(said.get(key), recipe, task_type)
        elif key not in need:  # of another version of PEFT: nothing, where it is off
            same = not said[key]
        else:
            same = key not in said or _plain(said[key]) == _plain(need[key])
        if not same:
            yield Finding(f"{path}: {printable(key)[:60]} is not what the recipe says")


def other_weights(adapter: Path, known: str) -> Iterator[Finding]:
    """Files that PEFT, or a person, could load in the place of the adapter's own."""
    for pattern in _OTHER_WEIGHTS:
        for file in sorted(adapter.rglob(pattern)):
            if file != adapter / known:
                name = printable(file.relative_to(adapter).as_posix())
                yield Finding(f"{name} is no part of a run's adapter")


def _saves(said: object, recipe: Recipe, task_type: str) -> bool:
    """Whether modules that are saved whole are the recipe's, and those that PEFT adds."""
    named = set(recipe.lora.modules_to_save)
    found = set(map(str, said)) if isinstance(said, list) else set() if said is None else {""}
    return named <= found <= named | added_by_peft(recipe.lora, task_type=task_type)


def _is_base(said: object, model: Model) -> bool:
    """Whether a base is the recipe's, by its name: PEFT writes the folder that it was loaded from.

    Another machine has that folder elsewhere, so that of a path its end alone is looked at. What is
    no path is a name of the hub's, from where it would be fetched.
    """
    if not isinstance(said, str):
        return False
    path = PureWindowsPath(said) if "\\" in said else PurePosixPath(said)
    name = model.name_or_path
    if name == "nano":
        return path.is_absolute() and path.parts[-2:] == ("nano", "model")
    own = PureWindowsPath(name) if "\\" in name else PurePosixPath(name)
    if own.is_absolute() or name.startswith(("~", ".")):
        return path.is_absolute() and path.name == own.name
    cached = ("models--" + name.replace("/", "--"), "snapshots")  # of the hub, on any machine
    if not path.is_absolute():
        return said == name
    one = model.revision if _COMMIT.fullmatch(model.revision or "") else path.name
    return path.parts[-3:] == (*cached, one)


def _plain(value: object) -> object:
    """Sets and lists of names as PEFT writes them, in any order."""
    if isinstance(value, list | set | tuple):
        return sorted(map(str, value))
    return value.value if hasattr(value, "value") else value
