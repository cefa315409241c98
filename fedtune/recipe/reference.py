"""Every key of a recipe with meaning, kind, bounds, default, unit and an example, by its schema."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from fedtune.recipe.errors import RecipeError, nearest
from fedtune.recipe.json_schema import json_schema
from fedtune.recipe.key_examples import DEFAULTS, EXAMPLES, REWARDS, UNITS
from fedtune.recipe.reading import write_text

_KINDS = {
    "boolean": "true or false",
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "object": "mapping",
}
MOST_WORDS = 12  # that are told one by one; of more `fedtune list` tells
_OWN_OF_A_STAGE = ("name", "start", "from")


@dataclass(frozen=True)
class Key:
    """One key of a recipe.

    Attributes:
        name: Dotted, from the top of the recipe; of a reward with the reward's name in between.
        meaning: What it is for.
        kind: What its value is, with the words that it may be.
        bounds: Of its value; empty: none.
        default: As YAML has it; ``needed`` where there is none.
        unit: Of a number; empty: none.
        example: Overrides for the command line, as a shell would split them but for quotes.
        is_section: Whether more keys stand under it.
    """

    name: str
    meaning: str
    kind: str
    bounds: str
    default: str
    unit: str
    example: str
    is_section: bool = False


@cache
def keys() -> dict[str, Key]:
    """All keys by name, in the order of the schema; a section before its keys."""
    schema = json_schema()
    return {key.name: key for key in _keys_of(schema, schema["$defs"], "")}


def look_up(name: str) -> tuple[Key, ...]:
    """A key alone, or a section with the keys that stand in it.

    Raises:
        RecipeError: If there is no such key; the nearest are named.
    """
    known = keys()
    if name not in known:
        section = name.rpartition(".")[0]
        among = [each for each in known if each.startswith(f"{section}.")] or [
            each for each in known if "." not in each
        ]
        raise RecipeError([f"{name}: no key of a recipe; {nearest(name, among)}"])
    inner = [each for each in known.values() if each.name.startswith(f"{name}.")]
    return (known[name], *inner)


def _keys_of(section: Mapping[str, Any], defs: Mapping[str, Any], prefix: str) -> Iterator[Key]:
    needed = set(section.get("required", ()))
    for own, said in section["properties"].items():
        name = f"{prefix}{own}"
        if prefix == "stages." and own not in _OWN_OF_A_STAGE:
            continue
        inner = list(_sections_in(said, defs))
        yield _key(name, said, inner, is_needed=own in needed)
        for each in inner:
            tag = each["properties"].get("name", {}).get("const")
            yield from _keys_of(each, defs, f"{name}.{tag}." if tag else f"{name}.")


def _key(
    name: str, said: Mapping[str, Any], inner: list[Mapping[str, Any]], *, is_needed: bool
) -> Key:
    meaning = said.get("description") or (inner[0].get("description", "") if inner else "")
    branches = [each for each in said.get("anyOf", [said]) if each.get("type") != "null"]
    default = "needed" if is_needed else _as_yaml(_default(said, is_section=bool(inner)))
    return Key(
        name=name,
        meaning=" ".join(str(meaning).split()),
        kind=" or ".join(dict.fromkeys(_kind(each) for each in branches)),
        bounds="; ".join(dict.fromkeys(filter(None, map(_bounds, branches)))),
        default="" if set(said) <= {"$ref", "default"} else DEFAULTS.get(name, default),
        unit=UNITS.get(name, ""),
        example=_example(name, said),
        is_section=bool(inner),
    )


def _sections_in(said: Mapping[str, Any], defs: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if "$ref" in said:
        yield defs[said["$ref"].rpartition("/")[2]]
    items = [said["items"]] if "items" in said else []
    for inner in (*said.get("anyOf", ()), *said.get("oneOf", ()), *items):
        yield from _sections_in(inner, defs)


def _kind(said: Mapping[str, Any]) -> str:
    if "$ref" in said or "oneOf" in said:
        return "section"
    if "const" in said or "enum" in said:
        words = said.get("enum") or [said["const"]]
        if len(words) > MOST_WORDS:
            return "text"
        return f"one of {', '.join(map(str, words))}" if len(words) > 1 else str(words[0])
    if "anyOf" in said:
        kinds = [_kind(each) for each in said["anyOf"] if each.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if said.get("type") == "array":
        inner = [said["items"]] if "items" in said else said.get("prefixItems", [])[:1]
        return " of ".join(["list", *map(_kind, inner)])
    return _KINDS.get(said.get("type", ""), "any value")


def _bounds(said: Mapping[str, Any]) -> str:
    """In words: `1 to 1024`, `above 0, at most 65536`, `1 to 200 characters`."""
    if said.get("type") == "array":
        each = _bounds(said.get("items", {}))
        many = _range(said.get("minItems"), said.get("maxItems"), " entries")
        return ", ".join(filter(None, [many, f"each {each}" if each else ""]))
    if said.get("type") == "string":
        least = said.get("minLength")
        return _range(least, said.get("maxLength"), " characters") if said.get("maxLength") else (
            "not empty" if least else ""
        )  # fmt: skip
    low, high = said.get("minimum"), said.get("maximum")
    above, below = said.get("exclusiveMinimum"), said.get("exclusiveMaximum")
    if above is None and below is None:
        return _range(low, high, "")
    words = [
        f"above {above:g}" if above is not None else "",
        f"at least {low:g}" if low is not None else "",
        f"below {_number(below)}" if below is not None else "",
        f"at most {_number(high)}" if high is not None else "",
    ]
    return ", ".join(filter(None, words))


def _range(low: float | None, high: float | None, of: str) -> str:
    if low is None and high is None:
        return ""
    if low == high:
        return f"{_number(low)}{of}"
    if high is None:
        return f"at least {_number(low)}{of}"
    return f"at most {_number(high)}{of}" if low is None else f"{low:g} to {_number(high)}{of}"


def _number(value: float | None) -> str:
    return f"{value:.0f}" if value == int(value or 0) and abs(value or 0) < 1e12 else f"{value:g}"


def _default(said: Mapping[str, Any], *, is_section: bool) -> object:
    """What the key is without a word; of a section nothing, for each of its keys has one."""
    if said.get("default") is not None:
        return said["default"]
    return {"array": [], "object": {}}.get(said.get("type", ""))


def _example(name: str, said: Mapping[str, Any]) -> str:
    if name in EXAMPLES:
        words = EXAMPLES[name]
        return shlex.join([words] if isinstance(words, str) else words)
    section, _, own = name.rpartition(".")
    value = said.get("default")
    if name.startswith("rewards."):
        reward = section.removeprefix("rewards.")
        named = [f"name: {reward}", REWARDS.get(reward, "")]
        if own not in {"name", *(each.partition(":")[0] for each in named)}:
            named.append(f"{own}: {_as_yaml(value)}")
        return shlex.join(["task=grpo", f"rewards=[{{{', '.join(filter(None, named))}}}]"])
    if isinstance(value, bool):
        return f"{name}={_as_yaml(not value)}"
    if others := [each for each in said.get("enum", ()) if each != value]:
        return f"{name}={others[0]}"
    return "" if value is None or isinstance(value, dict) else f"{name}={_as_yaml(value)}"


def _as_yaml(value: object) -> str:
    if value is None:
        return "none"
    return write_text(value, flow=True).removesuffix("...\n").strip()
