"""The recipe's rule as a run uses it: on rows or on a Gram matrix, with what it remembers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

import aggregators
from aggregators import Gram
from aggregators.geometry import Renewed
from fedtune.adapters.part import Part
from fedtune.recipe import Recipe
from fedtune.round.aggregation.named_tensors import named, under
from fedtune.round.aggregation.points import Combined, shares_of, skipped_in
from fedtune.round.aggregation.terms import Terms
from fedtune.round.defence import momentum, suspicion
from fedtune.round.screening.spool import Spool
from fedtune.seeds import derive


@dataclass
class Rule:
    """Runs the recipe's rule, and keeps what it remembers, apart for each part.

    Attributes:
        recipe: The run's.
        state: The rule's own tensors by part, the clients' momentum, their suspicion. Tensors are
            replaced, and never written into.
    """

    recipe: Recipe
    state: dict[str, Tensor] = field(default_factory=dict)

    def smooth(self, spool: Spool, part: Part) -> None:
        """Put each client's momentum in the place of its row, if asked for."""
        if (beta := self.recipe.defence.momentum) is not None:
            self.state = momentum.smooth(spool, self.state, part.name, beta=beta)

    def on_rows(self, spool: Spool, terms: Terms, points: Gram | None) -> Combined[Tensor]:
        """Combine rows; norms and distances are the rows'.

        Args:
            spool: The clients' rows, all of shape (d,).
            terms: Of the round.
            points: The rows' Gram, in any geometry, with `extra_rows`; None: the rule makes it.
        """
        if points is not None:
            terms = self._suspend(points, terms)
        section, clients = terms.section, terms.clients
        result = aggregators.aggregate_with_report(
            spool.rows(clients),
            section.name,
            f=terms.f,
            mixing=section.mixing,
            state=self.memory(terms.part),
            clients=clients,
            reference=terms.reference,
            client_weights=section.shares(clients),
            generator=self._generator(terms.round_),
            gram=points,
            left_out=terms.places,
            **section.options,
        )
        self.keep(terms.part, result.state)
        norms, distances = result.report["norms"], result.report["distances"]
        assert isinstance(norms, list)
        assert isinstance(distances, list)
        return Combined(
            result.aggregate,
            float(result.aggregate.double().norm()),
            shares_of(result.weights.tolist(), result.report, terms.places),
            norms,
            distances,
            skipped_in(result.report),
        )

    def weigh(self, points: Gram, terms: Terms) -> tuple[Tensor, list[float], tuple[str, ...]]:
        """Run a rule on the Gram.

        Args:
            points: The clients', and those that the rule has of its own, in any geometry.
            terms: Of the round.

        Returns:
            Weights of all points, shape (p,); the clients' shares; the mixings that were skipped.

        Raises:
            ValueError: If the rule is not defined on so few.
        """
        return self._weigh(points, self._suspend(points, terms))

    def weights_of(self, points: Gram, terms: Terms) -> Tensor:
        """Only the weights of `weigh`; what is remembered is used and not changed."""
        return Rule(self.recipe, self.state_dict()).weigh(points, terms)[0]

    def _weigh(self, points: Gram, terms: Terms) -> tuple[Tensor, list[float], tuple[str, ...]]:
        weighed = aggregators.weigh(
            points,
            terms.section.plan(),
            f=terms.f,
            generator=self._generator(terms.round_),
            client_weights=terms.section.shares(terms.clients),
            left_out=terms.places,
        )
        assert weighed.weights is not None  # a rule on columns has none, and is not weighed
        weights = weighed.weights[: len(terms.clients)].tolist()
        shares = shares_of(weights, weighed.facts, terms.places)
        return weighed.weights, shares, skipped_in(weighed.facts)

    def _suspend(self, points: Gram, terms: Terms) -> Terms:
        """Exclude suspicious clients, if asked for; then update all scores."""
        memory = self.recipe.defence.suspicion
        if memory is None:
            return terms
        before = self.state.get(suspicion.NAME)
        if before is None:
            before = torch.zeros(self.recipe.federation.num_clients, dtype=torch.float64)
        most = min(terms.f, terms.spare)
        gone = suspicion.suspended(before, terms.clients, f=most)
        shares = torch.tensor(self._weigh(points, terms)[1])
        after = suspicion.updated(before, terms.clients, shares, memory=memory)
        self.state = self.state | {suspicion.NAME: after}
        return replace(terms, left_out=gone)

    def extra_rows(self, terms: Terms) -> list[Tensor]:
        """The rule's further points, as rows: its centre, if it has one yet, and the server's."""
        center = self.memory(terms.part).get("center")
        return [row for row in (center, terms.reference) if row is not None]

    def memory(self, part: Part) -> dict[str, Tensor]:
        """What the rule has kept of the rounds of a part: another part's has other columns."""
        return under(part.name, self.state)

    def keep(self, part: Part, memory: dict[str, Tensor]) -> None:
        """Replace what the rule remembers of a part."""
        mine = f"{part.name}/"
        others = {name: tensor for name, tensor in self.state.items() if not name.startswith(mine)}
        self.state = others | named(part.name, memory)

    def turn(self, renewed: Renewed) -> None:
        """Write what is remembered as whole rows in the anchor's new gauge."""
        for name, tensor in self.state.items():
            whole = name.startswith(("both/", f"{momentum.PREFIX}both/"))
            if whole and tensor.shape == renewed.row.shape:
                self.state[name] = renewed.turn(tensor)

    def state_dict(self) -> dict[str, Tensor]:
        """All that is remembered, by name."""
        return dict(self.state)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a state dict."""
        self.state = dict(state)

    def _generator(self, round_: int) -> torch.Generator:
        seed = derive(self.recipe.federation.seed, "aggregate", round_)
        return torch.Generator().manual_seed(seed)
