"""Rows as points of product space: lengths, distances, and what a round combined to."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aggregators import Gram
from aggregators.engine.rule import Facts
from aggregators.geometry import LowRank, Point, Step, combined_change, gather, product_gram
from fedtune.round.broadcast import Received
from fedtune.round.defence.standing import is_dropped


@dataclass(frozen=True, eq=False)
class Combined:
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

    change: Tensor | Point | Step
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


def shared(received: Sequence[Received]) -> tuple[Any, Any]:
    """Anchors and descriptions: one for all where all received the same."""
    if all(each is received[0] for each in received):
        return received[0].start, received[0].factors
    return [each.start for each in received], [each.factors for each in received]


def gram_of(rows: Sequence[Tensor], received: Sequence[Received], extra: Sequence[LowRank]) -> Gram:
    """The Gram matrix of the rows' products, and of extra points."""
    starts, factors = shared(received)
    return product_gram(rows, starts, factors, extra=extra)


def seen_from(rows: Sequence[Tensor], received: Sequence[Received], aggregate: LowRank) -> Combined:
    """Lengths and distances in products, once the aggregate is known; no weights."""
    points = gram_of(rows, received, [aggregate])
    there = torch.zeros(len(rows) + 1, dtype=torch.float64)
    there[-1] = 1
    at, nowhere = points.affine(there), points.affine(torch.zeros_like(there))
    return Combined(
        aggregate,
        points.length(at - nowhere),
        None,
        points.norms().tolist(),
        points.distances_to(at).tolist(),
    )


def point_of(delta: Tensor, received: Received) -> LowRank:
    """A delta row as the point of product space that it is."""
    one = gather([delta], received.start, received.factors)
    return combined_change(one, torch.ones(1, dtype=torch.float64))


def distance_between(row: Tensor, change: LowRank, received: Received) -> float:
    """How far a delta row's products lie from a point of product space."""
    return seen_from([row], [received], change).distances[0]
