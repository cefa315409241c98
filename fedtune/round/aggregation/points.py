"""Rows as points of product space: lengths, distances, and what a round combined to."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from aggregators import Gram
from aggregators.engine.rule import Facts
from aggregators.geometry import (
    Factors,
    GaugeError,
    LowRank,
    align,
    combined_change,
    gather,
    product_gram,
)
from fedtune.recipe import Aggregator
from fedtune.records.events import RunStoppedError
from fedtune.records.lines import is_dropped
from fedtune.round.broadcast import Broadcast, Received
from fedtune.round.screening.spool import Spool

C = TypeVar("C")


@dataclass(frozen=True, eq=False)
class Combined(Generic[C]):
    """What the rule made of a round.

    Attributes:
        change: What the outer optimizer steps along: a row, a point of product space, or a step
            already made.
        norm: Its length, in the geometry of the rule.
        weights: Each client's share, in the order of the spool, as it was before a rule cut the
            length of its update; None where a dense rule has none.
        norms: Each client's length.
        distances: Each client's distance to the aggregate.
        skipped: Mixings that would have left the rule too few rows, by name.
    """

    change: C
    norm: float
    weights: list[float] | None
    norms: list[float]
    distances: list[float]
    skipped: tuple[str, ...] = ()

    def facts_of(self, i: int) -> dict[str, float | bool | None]:
        """What the record says of the i-th client of the spool."""
        weight = None if self.weights is None else self.weights[i]
        return {
            "weight": weight,
            "dropped": is_dropped(weight, len(self.norms)),
            "norm": self.norms[i],
            "distance": self.distances[i],
        }


def skipped_in(facts: Facts) -> tuple[str, ...]:
    """The mixings that say of themselves that they were skipped, by name."""
    return tuple(name.split(".")[1] for name in facts if name.endswith(".skipped"))


def shares_of(
    weights: Sequence[float], facts: Facts, left_out: Collection[int] = ()
) -> list[float]:
    """Each client's share: its weight without what the rule has cut off the length of its update.

    A cut update still steers with its whole share. What a mixing has cut stays cut.

    Args:
        weights: The clients', shape (n,).
        facts: What the rule saw; ``cut`` is what it left of the length of the rows that it saw.
        left_out: Rows that it did not see, by place.
    """
    cut = facts.get("cut")
    if not isinstance(cut, list) or any(name.startswith("mixing[") for name in facts):
        return list(weights)
    factors = iter(cut)
    seen = [1.0 if i in left_out else next(factors) for i in range(len(weights))]
    return [w / factor if factor > 0 else w for w, factor in zip(weights, seen, strict=True)]


@dataclass(frozen=True, eq=False)
class Deltas:
    """Clients' rows as points of product space.

    Attributes:
        rows: Of shape (d_i,) each.
        received: What each client started from.
        whole: The server's own view of what was sent.
    """

    rows: Sequence[Tensor]
    received: Sequence[Received]
    whole: Received

    @classmethod
    def of(cls, spool: Spool, sent: Broadcast) -> Deltas:
        """Those in the spool, mapped from their files."""
        clients = spool.clients
        return cls(list(map(spool.row, clients)), list(map(sent.to, clients)), sent.whole)

    @property
    def starts(self) -> tuple[list[Tensor], list[Factors]]:
        """Anchors and descriptions, the same objects for all who received the same."""
        return [each.start for each in self.received], [each.factors for each in self.received]

    def gram(self, extra: Sequence[LowRank] = ()) -> Gram:
        """The Gram matrix of the rows' products, and of further points."""
        return product_gram(self.rows, *self.starts, extra=extra)

    def inner(self, point: LowRank) -> Tensor:
        """Inner products of the rows' products with a point, shape (n,), float64."""
        centred = self.gram([point]).centred
        about_origin = centred - centred[-1, :, None] - centred[None, -1] + centred[-1, -1]
        return about_origin[: len(self.rows), len(self.rows)]

    def seen_from(self, aggregate: LowRank) -> Combined[LowRank]:
        """Lengths and distances in products, once the aggregate is known; no weights."""
        points = self.gram([aggregate])
        there = torch.zeros(len(self.rows) + 1, dtype=torch.float64)
        there[-1] = 1
        at, nowhere = points.affine(there), points.affine(torch.zeros_like(there))
        norms, distances = points.norms().tolist(), points.distances_to(at).tolist()
        return Combined(aggregate, points.length(at - nowhere), None, norms, distances)


def point_of(delta: Tensor, received: Received) -> LowRank:
    """A delta row as the point of product space that it is."""
    one = gather([delta], received.start, received.factors)
    return combined_change(one, torch.ones(1, dtype=torch.float64))


def distance_between(row: Tensor, change: LowRank, received: Received) -> float:
    """How far a delta row's products lie from a point of product space."""
    return Deltas([row], [received], received).seen_from(change).distances[0]


def in_anchors_gauge(row: Tensor, received: Received, section: Aggregator) -> Tensor | str:
    """A client's row in its anchor's gauge, or why it has none.

    Args:
        row: The client's delta, shape (d_i,).
        received: What it started from.
        section: The recipe's, for the bounds on a client's gauge.

    Raises:
        RunStoppedError: If the anchor itself is what cannot be aligned to.
    """
    bounds = {"max_condition": section.max_condition, "max_stretch": section.stretch_bound}
    try:
        turned = align([row], received.gauge, received.factors, **bounds).rows[0]
    except GaugeError as error:
        return f"its adapter stands in no gauge near the anchor's: {error.refused[0]}"
    except ValueError as error:
        raise RunStoppedError(f"geometry: product cannot go on: {error}") from error
    if not torch.isfinite(turned).all():
        return "its adapter leaves the range of float32 in the anchor's gauge"
    return turned
