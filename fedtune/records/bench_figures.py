"""Figures of a bench over its seeds: means, extremes, floors and curves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

from pydantic import (
    BeforeValidator,
    Field,
)

from fedtune.records.bench_result import Count, Part
from fedtune.records.lines import Number

Seed = int | str  # a number, but for a stranger's summary


class Stat(Part):
    """A mean over seeds, its 95 % interval (None with one seed), and each seed's value."""

    mean: float
    low: Number = None
    high: Number = None
    values: dict[str, Number] = Field(default_factory=dict)


def _stat(value: object) -> object:
    """A number stands for its own statistic, and one without a finite mean is none."""
    mean = value.get("mean") if isinstance(value, Mapping) else value
    if isinstance(mean, bool | str) or mean is None:
        return None
    if isinstance(mean, int | float) and not math.isfinite(mean):
        return None
    return {"mean": value} if isinstance(value, int | float) else value


MaybeStat = Annotated[Stat | None, BeforeValidator(_stat)]


class Least(Part):
    """The least share of a gain, and where it was: a cell's has no attack, a round's no client.

    ``kept``: None where the loss was no finite number, which is less than any.
    """

    kept: Number
    attack: str = ""
    round: Count | None = None
    client: Count | None = None
    name: str = ""
    seed: Seed | None = None

    @property
    def rank(self) -> float:
        """What it counts as beside others."""
        return -math.inf if self.kept is None else self.kept


class Longest(Part):
    """The client that lost the largest share of its rounds in one run."""

    client: Count
    name: str = ""
    rounds: Count = 0
    asked: Count = 0
    attack: str = ""
    seed: Seed | None = None


class Silenced(Part):
    """Honest clients that had no part: at most ``clients`` of ``of`` in a run.

    ``share``: of all rounds in which honest clients were asked.
    """

    clients: Count
    of: Count
    share: float
    longest: Longest | None = None


class SilencedPair(Part):
    """The same with no attacker, and under attack; None: not known."""

    free: Silenced | None = None
    attacked: Silenced | None = None


class Peak(Part):
    """The largest success of a backdoor over all rounds and seeds."""

    success: float
    round: Count
    seed: Seed


class FloorRate(Part):
    """The floor at one rate of poisoned rows."""

    rate: float
    end: MaybeStat = None
    most: MaybeStat = None


class Floor(Part):
    """What no rule can stop, at the end and at most over the rounds: see `backdoors.floor_of`."""

    end: MaybeStat = None
    most: MaybeStat = None
    rates: list[FloorRate] = Field(default_factory=list)


class Curve(Part):
    """Round and a number, by seed; None where it is not finite."""

    seed: Seed
    points: list[tuple[float, Number]] = Field(default_factory=list)
