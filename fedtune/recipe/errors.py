"""What is wrong with a recipe, in words that say what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from fedtune.recipe.meant import meant

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError


MOST, MOST_SIGNS = 50, 4000  # of lines, and of one: a stranger's recipe may be wrong 25,000 times


COMMON_TRAIN = (
    "learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "max_length",
    "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "optim", "beta",
)  # fmt: skip
"""Keys of TRL's that are written outside `train` by mistake."""


class RecipeError(ValueError):
    """One or more things that are wrong with a recipe, a line each."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


def nearest(word: str, known: Iterable[str]) -> str:
    """Say which of ``known`` a mistyped ``word`` may have meant, and list them all."""
    names = sorted(known)
    return " ".join(part for part in (guess(word, names), _all_of(names)) if part)


def guess(word: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """Say which of ``known`` a mistyped ``word`` may have meant; empty if none is near."""
    found = meant(word, known, cutoff)
    return _ask(found) if found else ""


def _ask(name: str) -> str:
    return f"did you mean {name!r}?"


def _all_of(names: Iterable[str]) -> str:
    return f"known: {', '.join(sorted(names))}"


def explain(error: ValidationError, model: type[BaseModel]) -> RecipeError:
    """Turn pydantic's errors into lines of `key: what is wrong; what to do`, `MOST` at most."""
    found = [dict(item) for item in error.errors(include_url=False)]
    items = [item for item in found if not _is_other_branch(item)]
    lines = [_line(item, model)[:MOST_SIGNS] for item in items[:MOST]]
    more = len(items) - len(lines)
    return RecipeError([*lines, f"and {more} more"] if more else lines)


# What pydantic puts into the path of a `str | Source` or `str | list[str]`: no key of the recipe.
# A class with a validator of its own stands there as `function-after[...]`.
_BRANCHES = {"str", "Source", "list[str]", "dict[str,any]"}


def _is_other_branch(item: dict[str, Any]) -> bool:
    return item["loc"][-1:] == ("str",) and isinstance(item["input"], dict | list)


def _line(item: dict[str, Any], model: type[BaseModel]) -> str:
    parts = map(str, item["loc"])
    path = [part for part in parts if part not in _BRANCHES and not part.startswith("function-")]
    key = ".".join(path)
    if item["type"] == "extra_forbidden":
        return f"{key}: unknown key; {_hint(model, path)}"
    if item["type"] == "missing":
        return f"{key}: needed, and not given"
    if item["type"] in {"union_tag_invalid", "union_tag_not_found"}:
        known, tag = map(_tag, _members_at(model, path)), item.get("ctx", {}).get("tag", "")
        return f"{key}: {f'unknown name {tag!r}' if tag else 'needs a name'}; {nearest(tag, known)}"
    text = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{key}: {text}" if key else text
    if item["type"] == "model_type":
        members = _members_at(model, path)
        keys = ", ".join(members[0].model_fields)
        text = f"needs a section with keys such as {keys}"
    text = f"{text[0].lower()}{text[1:]}; got {item['input']!r}"
    return f"{key}: {text}" if key else text


def _hint(model: type[BaseModel], path: list[str]) -> str:
    """The nearest key of the same section; else the section in which the key would be known."""
    word, own = path[-1], list(_members_at(model, path[:-1])[0].model_fields)
    if meant(word, own, 0.7) or "train" not in model.model_fields:
        return nearest(word, own)
    elsewhere = {"train": list(COMMON_TRAIN)} | {
        name: list(section.model_fields)
        for name, field in model.model_fields.items()
        for section in _sections_in(field.annotation)
        if name not in {"rewards", *path[:-1]}
    }
    found = [f"{name}.{key}" for name in elsewhere if (key := meant(word, elsewhere[name], 0.85))]
    return f"{_ask(found[0])} {_all_of(own)}" if found else nearest(word, own)


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
