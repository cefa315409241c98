"""How a completion is scored: one function per reward of a recipe, each from 0 to 1."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

from fedtune.failing import one_line
from fedtune.recipe.reward import (
    GROUP,
    AnswerReward,
    AnyReward,
    ContainsReward,
    DocsReward,
    EntryPointReward,
    FormatReward,
    LengthReward,
)
from fedtune.training.trl_rewards import check_columns, takes_lists

Row = Mapping[str, Any]
Score = Callable[[str, str, Row], float]
"""(prompt, completion, row) -> a number; what is beyond [0, 1] or no number is brought there."""

_QUOTED = 40  # signs of a completion in an error
_WORD = re.compile(r"[A-Za-z_]+")
# The first words of a docstring that says what something does or is.
# fmt: off
_OPENINGS = frozenset([
    "a", "an", "the", "return", "returns", "set", "sets", "get", "gets", "create",
    "creates", "read", "write", "check", "test", "convert", "add", "remove", "open",
    "close", "run", "call", "compute", "yield", "find", "parse", "print", "send", "receive",
    "make", "initialize", "raise", "like", "same", "true", "false", "this", "class", "base",
    "helper", "start", "stop", "wait", "load", "save", "update", "build",
])
# fmt: on
_SYNTAX = {"async", "class", "cls", "def", "none", "self"}  # of a signature: they name nothing


def length(section: LengthReward) -> Score:
    """1 - |words - best| / best, at least 0."""

    def score(prompt: str, completion: str, row: Row) -> float:
        return 1.0 - abs(len(completion.split()) - section.words) / section.words

    return score


def form(section: FormatReward) -> Score:
    """The share of four checks that hold."""

    def score(prompt: str, completion: str, row: Row) -> float:
        text = completion.strip()
        begins = text.startswith(section.begins) if section.begins else text[:1].isupper()
        checks = (
            bool(text) and begins,
            bool(text) and text.endswith(section.ends),
            bool(text) and "\n" not in text,
            bool(text) and not repeats(text),
        )
        return sum(checks) / len(checks)

    return score


def contains(section: ContainsReward) -> Score:
    """1 or 0."""
    return lambda prompt, completion, row: float(section.text in completion)


def exact_answer(section: AnswerReward) -> Score:
    """1 or 0; 0 where the row's answer is neither text nor a number.

    A number is compared as Python writes it: 42 is "42", and 42.0 is "42.0".
    """

    def score(prompt: str, completion: str, row: Row) -> float:
        answer = row.get(section.column)
        told = isinstance(answer, str | int | float) and not isinstance(answer, bool)
        return float(told and plainly(completion) == plainly(str(answer)))

    return score


def python_docs(section: DocsReward) -> Score:
    """The share of five checks: what may be said of a docstring's summary without reading it.

    It begins with a capital and a word that opens such sentences, ends in a full stop on one
    line, has 4 to 40 words, repeats none thrice in a row, and names a part of the signature.
    """

    def score(prompt: str, completion: str, row: Row) -> float:
        text = completion.strip()
        words = _WORD.findall(text)
        parts = {part.lower() for part in re.split(r"[^A-Za-z]+", prompt) if len(part) > 2}
        names = parts - _SYNTAX
        checks = (
            text[:1].isupper() and bool(words) and words[0].lower() in _OPENINGS,
            text.endswith(".") and "\n" not in text,
            4 <= len(text.split()) <= 40,
            bool(text) and not repeats(text),
            any(word.lower() in names for word in words),
        )
        return sum(checks) / len(checks)

    return score


def entry_point(section: EntryPointReward) -> Score:
    """A function (prompt, completion, row) -> float that somebody installed here.

    Raises:
        ValueError: If none of this name is installed, or several, or it is no function.
    """
    score: Score = installed(section.entry, group=GROUP, key="rewards")
    return score


def in_lists(section: AnyReward) -> Callable[..., Any] | None:
    """The function of an entry point that has TRL's own signature; None of any other reward.

    Raises:
        ValueError: As `entry_point` does, or if it can be called in no known way.
    """
    if not isinstance(section, EntryPointReward):
        return None
    function = entry_point(section)
    return function if takes_lists(function, section.entry) else None


def installed(entry: str, *, group: str, key: str) -> Any:  # noqa: ANN401  a function of any kind
    """The function of an entry point.

    Args:
        entry: Its name.
        group: Of entry points.
        key: Of the recipe, which is named in an error.

    Raises:
        ValueError: If none of this name is installed, or several, or it is no function.
    """
    there = entry_points(group=group)
    found = {each.value: each for each in there if each.name == entry}
    if not found:
        known = ", ".join(sorted({each.name for each in there})) or "none"
        raise ValueError(
            f"{key}: no entry point {entry!r} in the group {group}; installed: {known}"
        )
    if len(found) > 1:
        raise ValueError(
            f"{key}: entry point {entry!r} is installed more than once, as "
            f"{' and '.join(sorted(found))}; uninstall all but one"
        )
    try:
        (function,) = (each.load() for each in found.values())
    except Exception as error:  # whatever its module does when it is imported
        raise ValueError(
            f"{key}: entry point {entry!r} cannot be loaded: {one_line(error)}; mend its package"
        ) from error
    if not callable(function):
        raise ValueError(f"{key}: entry point {entry!r} is no function")
    return function


SCORES: Mapping[str, Callable[[Any], Score]] = {
    "length": length,
    "format": form,
    "contains": contains,
    "exact_answer": exact_answer,
    "python_docs": python_docs,
    "entry_point": entry_point,
}


def bounded(value: object) -> float:
    """A score in [0, 1]: what is no finite number counts as 0."""
    return float(min(1, max(0, _finite(value))))


def as_number(value: object) -> float:
    """A score as it is; what is no finite number counts as 0."""
    try:
        return float(_finite(value))
    except OverflowError:  # an integer beyond every float
        return 0.0


def _finite(value: object) -> int | float:
    """A number, 0 for what is none; scalars of NumPy's and torch's are numbers."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, int | float):
        return 0
    return 0 if isinstance(value, float) and not math.isfinite(value) else value


def repeats(text: str, times: int = 3) -> bool:
    """Whether a word, or a pair of words, comes so often in a row."""
    words = text.lower().split()
    for size in (1, 2):
        for start in range(len(words) - size * times + 1):
            first = words[start : start + size]
            if all(
                words[start + size * k : start + size * (k + 1)] == first for k in range(1, times)
            ):
                return True
    return False


def scorer(section: AnyReward) -> Score:
    """The function of a reward, its result brought into [0, 1]."""
    score = SCORES[section.name](section)

    def asked(prompt: str, completion: str, row: Row) -> float:
        try:
            return bounded(score(prompt, completion, row))
        except Exception as error:  # of a plug-in
            name = getattr(section, "entry", section.name)
            error.add_note(f"rewards.{name}, asked about {completion[:_QUOTED]!r}")
            raise

    return asked


def check_rewards(sections: Iterable[AnyReward], columns: Collection[str]) -> None:
    """Refuse a reward that is not installed, or needs a column that the rows have not.

    Raises:
        ValueError: Naming it, and what there is: such a column would be worth 0 throughout.
    """
    for section in sections:
        if isinstance(section, EntryPointReward) and (function := in_lists(section)) is not None:
            check_columns(function, section.entry, columns)
        if isinstance(section, AnswerReward) and section.column not in columns:
            raise ValueError(
                f"rewards.exact_answer.column: no column {section.column!r}; "
                f"the data has {', '.join(columns)}"
            )


def text_of(said: object) -> str:
    """A prompt or a completion as text: messages by their contents."""
    if isinstance(said, str):
        return said
    if isinstance(said, Sequence):
        return "\n".join(str(each.get("content", "")) for each in said if isinstance(each, Mapping))
    return ""


def plainly(text: str) -> str:
    """A text, white space and case aside."""
    return " ".join(text.lower().split())
