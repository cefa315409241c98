"""The round's rows to one change: the rule, in the geometry that the recipe asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

import aggregators
from aggregators import Gram, Weighing
from aggregators.engine.gram import gram
from aggregators.geometry import (
    Change,
    LowRank,
    Renewed,
    gather,
    renew,
    truncate,
)
from fedtune.adapters.part import Part
from fedtune.recipe import Recipe
from fedtune.round.aggregation.dense import combine_entries
from fedtune.round.aggregation.outer import OuterOptimizer
from fedtune.round.aggregation.points import (
    Combined,
    gram_of,
    point_of,
    seen_from,
    shared,
    shares_of,
    skipped_in,
)
from fedtune.round.aggregation.product_outer import MOMENTUM_RANKS, ProductOuter, pack, unpack
from fedtune.round.aggregation.terms import Terms
from fedtune.round.broadcast import Broadcast, Received
from fedtune.round.defence import momentum, suspicion
from fedtune.round.screening.spool import Spool
from fedtune.seeds import derive


@dataclass
class Combiner:
    """Runs the recipe's rule, and keeps what the rule remembers, apart for each part.

    Attributes:
        recipe: The run's.
        state: The rule's tensors, by part.
    """

    recipe: Recipe
    state: dict[str, Tensor] = field(default_factory=dict)

    def combine(
        self,
        spool: Spool,
        sent: Broadcast,
        part: Part,
        *,
        round_: int,
        outer: object,
        reference: Tensor | None = None,
        f: int | None = None,
    ) -> Combined:
        """Combine the rows in the spool, each client's own momentum in their place if asked for.

        Args:
            spool: The good replies, in product geometry each in its anchor's gauge.
            sent: What they started from.
            part: What the round trains.
            round_: Counted from 1.
            outer: Where a dense rule makes the step itself, the optimizer whose step it is.
            reference: The server's own row, for rules that compare with it.
            f: How many of the replies may be Byzantine; None: the recipe's.

        Raises:
            ValueError: If the rule lets the rows combine to what is not finite.
        """
        section, beta = self.recipe.aggregator, self.recipe.defence.momentum
        f = section.f if f is None else f
        terms = Terms.of(section, spool.clients, f, round_)
        if beta is not None:
            self.state = momentum.smooth(spool, self.state, part.name, beta=beta)
        if section.geometry == "factors":
            points = None
            if self.recipe.defence.suspicion is not None:
                extra = self._extra_rows(part, reference)
                points = gram(spool.rows(spool.clients), extra=extra)
            return self._on_rows(spool, part, terms, points, reference)[0]
        received = [sent.to(client) for client in spool.clients]
        rows = [spool.row(client) for client in spool.clients]
        if part.name != "both" or section.combined_by == "factors":
            # One factor fixed: rows are linear in the products, and their sum is exact.
            extra = self._extra_rows(part, reference)
            points = gram_of(rows, received, [point_of(row, sent.whole) for row in extra])
            combined, aggregate = self._on_rows(spool, part, terms, points, reference)
            seen = seen_from(rows, received, point_of(aggregate, sent.whole))
            return replace(combined, norm=seen.norm, distances=seen.distances)
        if section.combined_by == "dense":
            assert isinstance(outer, ProductOuter)
            return combine_entries(rows, received, sent, outer, plan=section.plan(), f=f)
        point = None if reference is None else point_of(reference, sent.whole)
        return self._exact(terms, rows, received, part, point)

    def weights_of(
        self,
        points: Gram,
        clients: Sequence[int],
        *,
        round_: int,
        f: int | None = None,
    ) -> Tensor:
        """What a rule on the Gram would make of such points, all state heeded and none changed.

        Args:
            points: The clients' and the `extra_points`, in the geometry of the run.
            clients: Whose they are, in ascending order.
            round_: Counted from 1.
            f: As in `combine`.

        Returns:
            Weights of the clients, then of the extra points.

        Raises:
            ValueError: If the rule is not defined on so few.
        """
        trial, section = Combiner(self.recipe, dict(self.state)), self.recipe.aggregator
        terms = Terms.of(section, clients, section.f if f is None else f, round_)
        return _weights_in(trial._weigh(points, trial._suspend(points, terms)))

    def extra_points(self, part: Part, sent: Broadcast) -> list[Tensor] | list[LowRank]:
        """What the rule remembers as a point: rows, or in product geometry points of its space."""
        if self.recipe.aggregator.geometry == "factors":
            return self._extra_rows(part, None)
        if part.name != "both" or self.recipe.aggregator.combined_by == "factors":
            return [point_of(row, sent.whole) for row in self._extra_rows(part, None)]
        center = unpack("center", self._mine(part))
        return [] if center is None else [center]

    def renew_gauge(self, outer: object, sent: Broadcast) -> Renewed | None:
        """Give A its length back after a step on rows in the anchor's gauge, where that was one.

        They shrink it by what the clients' A have not in common. Momentum and memory turn along.

        Returns:
            The way to the new gauge, for whoever else remembers rows; None where all stays.
        """
        if not self.recipe.renews_gauge or not isinstance(outer, OuterOptimizer):
            return None
        renewed = renew(outer.anchor, sent.whole.anchor, sent.whole.factors)
        outer.renew(renewed)
        for name, tensor in self.state.items():
            mine = name.startswith(("both/", f"{momentum.PREFIX}both/"))
            if mine and tensor.shape == renewed.row.shape:
                self.state[name] = renewed.turn(tensor)
        return renewed

    def _on_rows(
        self,
        spool: Spool,
        part: Part,
        terms: Terms,
        points: Gram | None,
        reference: Tensor | None,
    ) -> tuple[Combined, Tensor]:
        """Combine rows; norm and distances are the rows'."""
        terms = self._suspend(points, terms)
        section, clients = terms.section, terms.clients
        result = aggregators.aggregate_with_report(
            spool.rows(clients),
            section.name,
            f=terms.f,
            mixing=section.mixing,
            state=self._mine(part),
            clients=clients,
            reference=reference,
            client_weights=section.shares(clients),
            generator=self._generator(terms.round_),
            gram=points,
            left_out=terms.places,
            **section.options,
        )
        self._keep(part, result.state)
        norms, distances = result.report["norms"], result.report["distances"]
        assert isinstance(norms, list)
        assert isinstance(distances, list)
        norm = float(result.aggregate.double().norm())
        shares = shares_of(result.weights.tolist(), result.report, terms.places)
        skipped = skipped_in(result.report)
        made = Combined(result.aggregate, norm, shares, norms, distances, skipped)
        return made, result.aggregate

    def _exact(
        self,
        terms: Terms,
        rows: Sequence[Tensor],
        received: Sequence[Received],
        part: Part,
        reference: LowRank | None,
    ) -> Combined:
        center = unpack("center", self._mine(part))
        extra = [point for point in (center, reference) if point is not None]
        points = gram_of(rows, received, extra)
        terms = self._suspend(points, terms)
        weighed = self._weigh(points, terms)
        weights, n = _weights_in(weighed), len(rows)
        starts, factors = shared(received)
        change = Change(
            gather(rows, starts, factors),
            weights[:n],
            extra=extra,
            extra_weights=weights[n:].tolist(),
        )
        if terms.section.plan().last.rule.memory == "center":
            kept, _ = truncate(change, MOMENTUM_RANKS * self.recipe.lora.r)
            self._keep(part, pack("center", kept))
        spread = points.affine(weights)
        return Combined(
            change,
            points.length(spread - points.affine(torch.zeros_like(weights))),
            shares_of(weights[:n].tolist(), weighed.facts, terms.places),
            points.norms().tolist(),
            points.distances_to(spread).tolist(),
            skipped_in(weighed.facts),
        )

    def _weigh(self, points: Gram, terms: Terms) -> Weighing:
        section = terms.section
        return aggregators.weigh(
            points,
            section.plan(),
            f=terms.f,
            generator=self._generator(terms.round_),
            client_weights=section.shares(terms.clients),
            left_out=terms.places,
        )

    def _suspend(self, points: Gram | None, terms: Terms) -> Terms:
        """Exclude clients whom earlier rounds make suspect; then update all suspicions."""
        memory = self.recipe.defence.suspicion
        if memory is None or points is None:
            return terms
        before = self.state.get(suspicion.NAME)
        if before is None:
            before = torch.zeros(self.recipe.federation.num_clients, dtype=torch.float64)
        most = min(terms.f, terms.spare)
        gone = suspicion.suspended(before, terms.clients, f=most)
        weighed, n = self._weigh(points, terms), len(terms.clients)
        shares = torch.tensor(shares_of(_weights_in(weighed)[:n].tolist(), weighed.facts))
        after = suspicion.updated(before, terms.clients, shares, memory=memory)
        self.state = self.state | {suspicion.NAME: after}
        return replace(terms, left_out=gone)

    def _extra_rows(self, part: Part, reference: Tensor | None) -> list[Tensor]:
        """The rule's extra points, as rows: its centre, if it has one yet, or the server's own."""
        mine = self._mine(part)
        center = [mine["center"]] if "center" in mine else []
        return [*center, *([] if reference is None else [reference])]

    def _mine(self, part: Part) -> dict[str, Tensor]:
        """What the rule has kept of the rounds of this part: another part's has other columns."""
        mine = f"{part.name}/"
        return {
            name.removeprefix(mine): tensor
            for name, tensor in self.state.items()
            if name.startswith(mine)
        }

    def _keep(self, part: Part, state: dict[str, Tensor]) -> None:
        mine = f"{part.name}/"
        others = {name: tensor for name, tensor in self.state.items() if not name.startswith(mine)}
        self.state = others | {mine + name: tensor for name, tensor in state.items()}

    def _generator(self, round_: int) -> torch.Generator:
        seed = derive(self.recipe.federation.seed, "aggregate", round_)
        return torch.Generator().manual_seed(seed)


def _weights_in(weighed: Weighing) -> Tensor:
    """The weights of a rule on the Gram; a rule on columns has none, and is not weighed."""
    assert weighed.weights is not None
    return weighed.weights
