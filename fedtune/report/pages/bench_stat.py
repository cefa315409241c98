"""A statistic of a bench's summary, over its seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedtune.report.pages.markup import line
from fedtune.report.text import number


@dataclass(frozen=True)
class Stat:
    """A mean over seeds, its 95 % interval (None with one seed), and each seed's value."""

    mean: float
    low: float | None
    high: float | None
    values: tuple[tuple[str, float], ...]


def read_stat(value: object) -> Stat | None:
    """A statistic; None where there is none."""
    if not isinstance(value, Mapping) or (mean := number(value.get("mean"))) is None:
        return None
    values = value.get("values") or {}
    known = ((line(seed), number(one)) for seed, one in values.items())
    return Stat(
        mean=mean,
        low=number(value.get("low")),
        high=number(value.get("high")),
        values=tuple((seed, one) for seed, one in known if one is not None),
    )


def level(value: object) -> float | None:
    """A number, or the mean of a statistic."""
    return number(value.get("mean") if isinstance(value, Mapping) else value)
