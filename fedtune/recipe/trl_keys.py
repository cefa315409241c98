"""TRL's keys, read off the source of the TRL that is installed: importing it takes seconds."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fedtune.recipe.meant import number_in_quotes

CONFIGS = {"sft": "SFTConfig", "reward": "RewardConfig", "dpo": "DPOConfig", "grpo": "GRPOConfig"}
_FILES = (("transformers", "training_args.py"), ("trl", "trainer/base_config.py"))


@dataclass(frozen=True)
class TrlKey:
    """One field of a config: what TRL says that it is for, its type and its default."""

    name: str
    help: str
    type: str
    default: str


@cache
def trl_keys(task: str) -> dict[str, TrlKey]:
    """The keys of a task's config with those it inherits, its own defaults last.

    Args:
        task: One of `CONFIGS`.

    Returns:
        By name; empty where the libraries are not installed, or lie in other files.
    """
    found: dict[str, TrlKey] = {}
    for package, file in (*_FILES, ("trl", f"trainer/{task}_config.py")):
        for key in _fields_in(package, file):
            found[key.name] = key
    return found


def quoted_numbers(task: str, train: Mapping[str, object]) -> Iterator[str]:
    """Numbers in quotes inside ``train:`` where TRL takes no text, a line each.

    Args:
        task: One of `CONFIGS`.
        train: Key and value, as YAML has them.
    """
    for key, value in train.items():
        number, known = number_in_quotes(value), trl_keys(task).get(key)
        if number and known is not None and not {"str", "dict"} & set(_words(known.type)):
            yield f"train.{key}: needs a number: got the text {value!r}; write {number}"


def _words(annotation: str) -> list[str]:
    return re.findall(r"\w+", annotation)


def _fields_in(package: str, file: str) -> Iterator[TrlKey]:
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / file if spec is not None and spec.origin else None
    if path is None or not path.is_file():
        return
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Config", "TrainingArguments")):
            yield from filter(None, map(_field, node.body))


def _field(node: ast.stmt) -> TrlKey | None:
    """A line ``name: type = field(default=..., metadata={"help": ...})``."""
    if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
        return None
    said = {each.arg: each.value for each in getattr(node.value, "keywords", ())}
    if "metadata" not in said:
        return None
    try:
        told = str(ast.literal_eval(said["metadata"]).get("help", ""))
    except ValueError:  # put together at run time
        told = ""
    default = ast.unparse(said["default"]) if "default" in said else ""
    return TrlKey(node.target.id, " ".join(told.split()), ast.unparse(node.annotation), default)
