"""What an onlooker needs of a run's recipe, read without the libraries that run it.

To validate a recipe takes torch, and seconds: a look each two seconds would slow the run itself.
A run's own recipe.yaml is resolved and was validated when the run began.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedtune.recipe.reading import read_mapping
from fedtune.report.text import number

MAX_COUNT = 2**31


@dataclass(frozen=True)
class Outline:
    """A recipe in few words; all of them may be a stranger's.

    Attributes:
        name: Of the stage, or of the run's folder.
        task: As sft.
        model: Its name or folder.
        engine: As local.
        num_clients: Of the federation.
        num_rounds: To be run.
        rule: Mixing, rule, f, geometry, outer optimizer and simulated attack in a line.
    """

    name: str
    task: str
    model: str
    engine: str
    num_clients: int
    num_rounds: int
    rule: str


def read_outline(path: Path) -> Outline:
    """Read the recipe.yaml of a single run.

    Raises:
        ValueError: If it is not readable, or lacks what is asked of it.
    """
    return _outline(read_mapping(path), path, path.parent.name)


def read_stages_outline(path: Path) -> list[Outline]:
    """Read the recipe.yaml of several stages, in their order.

    Raises:
        ValueError: If it is not readable, or lacks what is asked of it.
    """
    stages = read_mapping(path).get("stages")
    if not isinstance(stages, list) or not stages:
        raise ValueError(f"{path} is damaged: it needs a list of stages")
    found = []
    for each in stages:
        name = each.get("name") if isinstance(each, Mapping) else None
        # it becomes a folder's name
        if not isinstance(name, str) or not name or name in {".", ".."} or {*name} & {*"/\\\0"}:
            raise ValueError(f"{path} is damaged: each stage needs a name that a folder can have")
        found.append(_outline(each, path, name))
    return found


def _outline(raw: Mapping[str, Any], path: Path, name: str) -> Outline:
    federation, model = _section(raw, "federation"), _section(raw, "model")
    return Outline(
        name=name,
        task=_word(raw.get("task")),
        model=_word(model.get("name_or_path", "of an earlier stage")),
        engine=_word(federation.get("engine")),
        num_clients=_count(federation, "num_clients", path),
        num_rounds=_count(federation, "num_rounds", path),
        rule=_rule(raw),
    )


def _rule(raw: Mapping[str, Any]) -> str:
    section, outer, attack = (_section(raw, key) for key in ("aggregator", "outer", "attack"))
    mixing = section.get("mixing")
    steps = mixing if isinstance(mixing, Sequence) and not isinstance(mixing, str) else ()
    names = [each.get("name") if isinstance(each, Mapping) else each for each in steps]
    parts = [" + ".join(map(_word, [*names, section.get("name")]))]
    parts[0] += f", f={_word(section.get('f'))}"
    if section.get("geometry") == "product":
        parts[0] += ", on products"
    parts.append(_word(outer.get("name")))
    if attackers := number(attack.get("num_attackers")):
        of = _word(_section(raw, "federation").get("num_clients"))
        parts.append(f"{attackers:.0f} of {of} attack: {_word(attack.get('name'))}")
    return " | ".join(parts)


def _word(value: object) -> str:
    """A scalar in words. What is nested is not written out: aliases make terabytes of a line."""
    if isinstance(value, str):
        return value
    known = number(value)
    return "-" if known is None else f"{known:g}"


def _section(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = raw.get(key)
    return found if isinstance(found, Mapping) else {}


def _count(section: Mapping[str, Any], key: str, path: Path) -> int:
    value = section.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < MAX_COUNT:
        raise ValueError(f"{path} is damaged: federation.{key} needs a count; got {_word(value)}")
    return value
