"""What a key of a stranger's recipe may hold: kinds and bounds, said in a few words."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """Values that a key may have.

    Attributes:
        needs: Which, in words that follow "needs".
        holds: Whether a value, as JSON has it, is one.
    """

    needs: str
    holds: Callable[[object], bool]


def flag() -> Range:
    """True or false."""
    return Range("true or false", lambda value: type(value) is bool)


def count(low: int, high: int) -> Range:
    """A whole number, both bounds included."""
    return Range(
        f"a whole number of {low} to {high}",
        lambda value: type(value) is int and low <= value <= high,
    )


def number(low: float, high: float) -> Range:
    """A finite number, both bounds included."""
    return Range(f"a number of {low:g} to {high:g}", lambda value: _is_within(value, low, high))


def one_of(*words: str) -> Range:
    """One of these words."""
    return Range(f"one of {', '.join(words)}", lambda value: type(value) is str and value in words)


def text(most: int) -> Range:
    """A short text that prints."""
    return Range(
        f"text of 1 to {most} signs that print",
        lambda value: type(value) is str and 0 < len(value) <= most and value.isprintable(),
    )


def names(most: int, *ends: str) -> Range:
    """A list of names of modules, no pattern, whose last parts are among these."""
    return Range(
        f"at most {most} names of modules that end in one of {', '.join(ends)}",
        lambda value: (
            isinstance(value, list)
            and len(value) <= most
            and all(type(each) is str and _NAME.fullmatch(each) for each in value)
            and all(each.rpartition(".")[2] in ends for each in value)
        ),
    )


def none_or(inner: Range) -> Range:
    """Null, or what another range holds."""
    return Range(f"null or {inner.needs}", lambda value: value is None or inner.holds(value))


def either(one: Range, other: Range) -> Range:
    """What either range holds."""
    return Range(
        f"{one.needs}, or {other.needs}", lambda value: one.holds(value) or other.holds(value)
    )


def several(inner: Range, most: int) -> Range:
    """A list of values of a range."""
    return Range(
        f"1 to {most} of: {inner.needs}",
        lambda value: (
            isinstance(value, list) and 0 < len(value) <= most and all(map(inner.holds, value))
        ),
    )


def mapping(keys: Mapping[str, Range]) -> Range:
    """A mapping of these keys, none of them needed, each in its range."""
    return Range(
        f"a mapping of {', '.join(keys)}, each a {_kinds(keys.values())}",
        lambda value: (
            isinstance(value, dict)
            and all(key in keys and keys[key].holds(each) for key, each in value.items())
        ),
    )


_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]{0,99}")


def _kinds(ranges: Collection[Range]) -> str:
    return " or ".join(dict.fromkeys(each.needs for each in ranges))


def _is_within(value: object, low: float, high: float) -> bool:
    if type(value) not in {int, float}:
        return False
    assert isinstance(value, int | float)
    return math.isfinite(value) and low <= value <= high
