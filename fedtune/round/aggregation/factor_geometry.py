"""Updates combined as rows: A and B laid end to end, judged as they are or by their products."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from aggregators import Gram
from aggregators.engine.gram import gram
from aggregators.geometry import LowRank, Renewed, renew
from fedtune.adapters.part import Part
from fedtune.recipe import Recipe
from fedtune.round.aggregation.geometry import Geometry
from fedtune.round.aggregation.outer import OuterOptimizer
from fedtune.round.aggregation.points import Combined, Deltas, in_anchors_gauge, point_of
from fedtune.round.aggregation.terms import Terms
from fedtune.round.broadcast import Broadcast, Received
from fedtune.round.screening.spool import Spool


class FactorGeometry(Geometry[Tensor]):
    """The recipe's ``geometry: factors``: a row is a point, and a change is a row, shape (d,)."""

    outer: OuterOptimizer

    def __init__(self, recipe: Recipe, anchor: Tensor) -> None:
        super().__init__(recipe, OuterOptimizer(recipe.outer, anchor))

    def step(self, change: Tensor, part: Part) -> dict[str, float]:
        """Step the part's columns; there is nothing to record."""
        self.outer.step(change, part)
        return {}

    def align(self, row: Tensor, received: Received) -> Tensor | str:
        """Return the row itself."""
        return row

    def gram(self, deltas: Deltas, terms: Terms) -> Gram:
        """Inner products of rows, all of shape (d,)."""
        return gram(torch.stack(list(deltas.rows)), extra=self.rule.extra_rows(terms))

    def inner(self, deltas: Deltas, change: Tensor) -> Tensor:
        """Inner products of rows with a row."""
        return torch.stack([row.double() @ change.double() for row in deltas.rows])

    def point(self, change: Tensor, whole: Received) -> LowRank:
        """The change of the products that a row stands for."""
        return point_of(change, whole)

    def shorter(self, change: Tensor, scale: float) -> Tensor:
        """The row times a number."""
        return scale * change

    def _combine(self, spool: Spool, sent: Broadcast, terms: Terms) -> Combined[Tensor]:
        points = None
        if self.recipe.defence.suspicion is not None:
            points = gram(spool.rows(spool.clients), extra=self.rule.extra_rows(terms))
        return self.rule.on_rows(spool, terms, points)


class AlignedGeometry(FactorGeometry):
    """Rows judged by their products, and combined as rows in the anchor's gauge.

    For ``geometry: product`` with ``combination: factors``; and with any combination where one
    factor is fixed: rows are then linear in the products, and their sum is exact.
    """

    def __init__(self, recipe: Recipe, anchor: Tensor) -> None:
        super().__init__(recipe, anchor)
        self.renews = recipe.lora.train == "both"

    def align(self, row: Tensor, received: Received) -> Tensor | str:
        """Write the row in its anchor's gauge."""
        return in_anchors_gauge(row, received, self.recipe.aggregator)

    def gram(self, deltas: Deltas, terms: Terms) -> Gram:
        """Inner products of the rows' products."""
        return deltas.gram([self.point(row, deltas.whole) for row in self.rule.extra_rows(terms)])

    def inner(self, deltas: Deltas, change: Tensor) -> Tensor:
        """Inner products of the rows' products with a row's."""
        return deltas.inner(self.point(change, deltas.whole))

    def renew(self, sent: Broadcast) -> Renewed | None:
        """Undo how the mean shrinks A, by what the clients' A have not in common."""
        if not self.renews:
            return None
        renewed = renew(self.anchor, sent.whole.anchor, sent.whole.factors)
        self.outer.turn(renewed)
        self.rule.turn(renewed)
        return renewed

    def _combine(self, spool: Spool, sent: Broadcast, terms: Terms) -> Combined[Tensor]:
        deltas = Deltas.of(spool, sent)
        combined = self.rule.on_rows(spool, terms, self.gram(deltas, terms))
        seen = deltas.seen_from(self.point(combined.change, sent.whole))
        return replace(combined, norm=seen.norm, distances=seen.distances)
