"""What is wrong with a recipe, in words that say what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError


MOST, MOST_SIGNS = 50, 4000  # of lines, and of one: a stranger's recipe may be wrong 25,000 times


class RecipeError(ValueError):
    """One or more things that are wrong with a recipe, a line each."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


def nearest(word: str, known: Iterable[str]) -> str:
    """Say which of ``known`` a mistyped ``word`` may have meant, and list them all."""
    names = sorted(known)
    parts = [guess(word, names), f"known: {', '.join(names)}"]
    return " ".join(part for part in parts if part)


def guess(word: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """Say which of ``known`` a mistyped ``word`` may have meant; empty if none is near."""
    close = difflib.get_close_matches(word, sorted(known), n=1, cutoff=cutoff)
    return f"did you mean {close[0]!r}?" if close else ""


def explain(error: ValidationError, model: type[BaseModel]) -> RecipeError:
    """Turn pydantic's errors into lines of `key: what is wrong; what to do`, `MOST` at most."""
    found = [dict(item) for item in error.errors(include_url=False)]
    items = [item for item in found if not _is_other_branch(item)]
    lines = [_line(item, model)[:MOST_SIGNS] for item in items[:MOST]]
    more = len(items) - len(lines)
    return RecipeError([*lines, f"and {more} more"] if more else lines)


# What pydantic puts into the path of a `str | Source` or `str | list[str]`: no key of the recipe.
_BRANCHES = {"str", "Source", "list[str]", "dict[str,any]"}


def _is_other_branch(item: dict[str, Any]) -> bool:
    return item["loc"][-1:] == ("str",) and isinstance(item["input"], dict | list)


def _line(item: dict[str, Any], model: type[BaseModel]) -> str:
    path = [str(part) for part in item["loc"] if part not in _BRANCHES]
    key = ".".join(path)
    if item["type"] == "extra_forbidden":
        return f"{key}: unknown key; {nearest(path[-1], _fields_at(model, path[:-1]))}"
    if item["type"] == "missing":
        return f"{key}: needed, and not given"
    if item["type"] in {"union_tag_invalid", "union_tag_not_found"}:
        known, tag = map(_tag, _members_at(model, path)), item.get("ctx", {}).get("tag", "")
        return f"{key}: {f'unknown name {tag!r}' if tag else 'needs a name'}; {nearest(tag, known)}"
    text = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{key}: {text}" if key else text
    text = f"{text[0].lower()}{text[1:]}; got {item['input']!r}"
    return f"{key}: {text}" if key else text


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    return list(_members_at(model, path)[0].model_fields)


def _members_at(model: type[BaseModel], path: list[str]) -> list[type[BaseModel]]:
    """The sections that a path leads to; several where a list holds any of them, by their name."""
    found = [model]
    for part in path:
        if tagged := [each for each in found if _tag(each) == part]:
            found = tagged
            continue
        fields = [each.model_fields[part] for each in found if part in each.model_fields]
        inner = [member for field in fields for member in _sections_in(field.annotation)]
        found = inner or found
    return found


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:  # noqa: ANN401
    if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _sections_in(inner)


def _tag(section: type[BaseModel]) -> str:
    """The one name that a section of several may bear; empty where there is none."""
    field = section.model_fields.get("name")
    allowed = list(getattr(field.annotation, "__args__", [])) if field else []
    return allowed[0] if len(allowed) == 1 and isinstance(allowed[0], str) else ""
