"""What a round moves, taken down before it, and put back together where the round is undone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from fedtune.adapters.layout import Layout
from fedtune.recipe import Recipe
from fedtune.round.aggregation.combining import Combiner
from fedtune.round.aggregation.outer import OuterOptimizer
from fedtune.round.aggregation.product_outer import ProductOuter, make_outer
from fedtune.round.defence.standing import Counts
from fedtune.round.hooks import Hooks


class Moved(Protocol):
    """A server's part that a round moves."""

    recipe: Recipe
    layout: Layout
    outer: OuterOptimizer | ProductOuter
    combiner: Combiner
    hooks: Hooks
    counts: Counts


@dataclass(frozen=True, eq=False)
class State:
    """All that a round moves; none of it goes back without the rest.

    Attributes:
        anchor: The global adapter.
        outer: The outer optimizer's tensors.
        rule: What the rule remembers: its own, clients' momentum, suspicion.
        attack: What simulated attackers remember.
        counts: Who was asked, and who weighed nothing.
    """

    anchor: Tensor
    outer: dict[str, Tensor]
    rule: dict[str, Tensor]
    attack: dict[str, Tensor]
    counts: Counts

    @classmethod
    def of(cls, server: Moved) -> State:
        """Take a server's state down. The rule's tensors are replaced, and never written into."""
        return cls(
            anchor=server.outer.anchor,
            outer=server.outer.state(),
            rule=dict(server.combiner.state),
            attack=server.hooks.state_dict(),
            counts=server.counts,
        )

    def put_back(self, server: Moved) -> None:
        """Go back to this state, all of it at once, as a resumed run does."""
        server.outer = make_outer(server.recipe, server.layout, self.anchor)
        server.outer.load_state(self.outer)
        server.combiner.state = dict(self.rule)
        server.hooks.load_state_dict(self.attack)
        server.counts = self.counts
