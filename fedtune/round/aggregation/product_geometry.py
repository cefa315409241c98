"""Updates combined as what the model feels of them, s(B_iA_i - BA), and the anchor moved by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from aggregators import Gram
from aggregators.engine.gram import middle
from aggregators.geometry import (
    Change,
    LowRank,
    Pair,
    Point,
    Step,
    combine_dense,
    gather,
    truncate,
)
from fedtune.adapters.layout import Layout
from fedtune.adapters.part import Part
from fedtune.recipe import Recipe
from fedtune.round.aggregation.factors import describe
from fedtune.round.aggregation.geometry import Geometry
from fedtune.round.aggregation.named_tensors import pack, unpack
from fedtune.round.aggregation.points import Combined, Deltas, in_anchors_gauge, point_of
from fedtune.round.aggregation.product_outer import MOMENTUM_RANKS, ProductOuter
from fedtune.round.aggregation.terms import Terms
from fedtune.round.broadcast import Broadcast, Received
from fedtune.round.screening.spool import Spool

P = TypeVar("P", Point, Step)


class _OnProducts(Geometry[P]):
    """What both ways of combining products have in common; both factors are trained.

    Args:
        recipe: The run's.
        layout: Of the whole adapter.
        anchor: Its row, shape (d,).
    """

    outer: ProductOuter

    def __init__(self, recipe: Recipe, layout: Layout, anchor: Tensor) -> None:
        factors = describe(Part("both", layout), None, recipe.lora)
        super().__init__(recipe, ProductOuter(recipe, anchor, factors))

    def step(self, change: P, part: Part) -> dict[str, float]:
        """Step the products; both factors move."""
        return self.outer.step(change)

    def align(self, row: Tensor, received: Received) -> Tensor | str:
        """Write the row in its anchor's gauge; its products stay."""
        return in_anchors_gauge(row, received, self.recipe.aggregator)

    def gram(self, deltas: Deltas, terms: Terms) -> Gram:
        """Inner products of the rows' products, then of the rule's centre and the server's row."""
        return deltas.gram(self._extra(deltas, terms))

    def inner(self, deltas: Deltas, change: P) -> Tensor:
        """Inner products of the rows' products with a change of products."""
        return deltas.inner(self.point(change, deltas.whole))

    def _extra(self, deltas: Deltas, terms: Terms) -> list[LowRank]:
        """The rule's further points: its centre, if it has one yet, and the server's own."""
        center = unpack("center", self.rule.memory(terms.part))
        own = None if terms.reference is None else point_of(terms.reference, deltas.whole)
        return [point for point in (center, own) if point is not None]


class ProductGeometry(_OnProducts[Point]):
    """The recipe's ``combination: exact``: the weighted sum of products, not yet cut to rank r."""

    def point(self, change: Point, whole: Received) -> LowRank:
        """The change, all its modules made."""
        return LowRank(tuple(change.pair(k) for k in range(len(change))), change.plain)

    def shorter(self, change: Point, scale: float) -> Point:
        """The change times a number, module by module."""
        return _Shorter(change, scale)

    def _combine(self, spool: Spool, sent: Broadcast, terms: Terms) -> Combined[Point]:
        deltas = Deltas.of(spool, sent)
        extra = self._extra(deltas, terms)
        points = deltas.gram(extra)
        weights, shares, skipped = self.rule.weigh(points, terms)
        n = len(deltas.rows)
        change = Change(
            gather(deltas.rows, *deltas.starts),
            weights[:n],
            extra=extra,
            extra_weights=weights[n:].tolist(),
        )
        if terms.section.plan().last.rule.memory == "center":
            kept, _ = truncate(change, MOMENTUM_RANKS * self.recipe.lora.highest_rank)
            self.rule.keep(terms.part, pack("center", kept))
        spread = points.affine(weights)
        return Combined(
            change,
            points.length(spread - points.affine(torch.zeros_like(weights))),
            shares,
            points.norms().tolist(),
            points.distances_to(spread).tolist(),
            skipped,
        )


class DenseGeometry(_OnProducts[Step]):
    """The recipe's ``combination: dense``: a rule on columns, on each entry of the products BA.

    The rule's result is brought back to rank r along with the step, so that a change is a step.
    """

    def point(self, change: Step, whole: Received) -> LowRank:
        """The change that the step has made of the anchor's products."""
        return point_of(change.row - whole.anchor, whole)

    def shorter(self, change: Step, scale: float) -> None:
        """Nothing: a step is back at rank r, with what it carries over in it, and has no half."""

    def _combine(self, spool: Spool, sent: Broadcast, terms: Terms) -> Combined[Step]:
        deltas, whole = Deltas.of(spool, sent), sent.whole
        last = self.recipe.aggregator.plan().last
        options: dict[str, Any] = dict(last.options)
        if last.rule.takes_scale:
            entries = sum(out * in_ for out, in_ in whole.factors.shapes) + whole.factors.num_plain
            options["scale"] = middle(deltas.gram().norms()) / entries**0.5

        def rule(block: Tensor) -> Tensor:
            values: Tensor = last.rule.function(block, f=terms.f, **options).values
            return values

        made = combine_dense(
            deltas.rows,
            *deltas.starts,
            rule,
            anchor=whole.anchor,
            target=whole.factors,
            carry=self.outer.residual,
            residual_rank=self.outer.residual_rank,
        )
        seen = deltas.seen_from(self.point(made, whole))
        return Combined(made, seen.norm, None, seen.norms, seen.distances)


@dataclass(frozen=True, eq=False)
class _Shorter:
    """A point of product space times a number, module by module as they are asked for."""

    whole: Point
    scale: float

    @property
    def plain(self) -> Tensor:
        return self.scale * self.whole.plain

    def __len__(self) -> int:
        return len(self.whole)

    def pair(self, k: int) -> Pair:
        left, right = self.whole.pair(k)
        return self.scale * left, right
