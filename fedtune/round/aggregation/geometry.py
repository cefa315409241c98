"""How a run compares updates, combines them and moves the anchor: one object, chosen once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from typing import Generic, Self, TypeVar

from torch import Tensor

from aggregators import Gram
from aggregators.geometry import LowRank, Renewed
from fedtune.adapters.part import Part
from fedtune.recipe import Recipe
from fedtune.round.aggregation.named_tensors import named, under
from fedtune.round.aggregation.outer import OuterOptimizer
from fedtune.round.aggregation.points import Combined, Deltas
from fedtune.round.aggregation.product_outer import ProductOuter
from fedtune.round.aggregation.rule import Rule
from fedtune.round.aggregation.terms import Terms
from fedtune.round.broadcast import Broadcast, Received
from fedtune.round.screening.spool import Spool

C = TypeVar("C")
OuterStep = OuterOptimizer | ProductOuter


class Geometry(ABC, Generic[C]):
    """The server's arithmetic of a round.

    A change C is what updates combine to and the anchor moves by: a row, shape (d,), of the part
    that a round trains, a point of product space, or a step that is already made.

    Attributes:
        recipe: The run's.
        outer: Holds the anchor, float32, shape (d,), and steps it along a change.
        rule: The recipe's rule, with what it remembers.
        renews: Whether `renew` turns the anchor; False where a replay gives each round's anchor.
    """

    renews = False

    def __init__(self, recipe: Recipe, outer: OuterStep) -> None:
        self.recipe, self.outer, self.rule = recipe, outer, Rule(recipe)

    @property
    def anchor(self) -> Tensor:
        """A copy of the global adapter, shape (d,), float32."""
        return self.outer.anchor

    def combine(self, spool: Spool, sent: Broadcast, terms: Terms) -> Combined[C]:
        """Combine the rows in the spool, each client's own momentum in their place if asked for.

        Args:
            spool: The good replies' rows, aligned.
            sent: What they started from.
            terms: Of the round; its clients are those in the spool.

        Raises:
            ValueError: If the rule lets the rows combine to what is not finite.
        """
        self.rule.smooth(spool, terms.part)
        return self._combine(spool, sent, terms)

    @abstractmethod
    def step(self, change: C, part: Part) -> dict[str, float]:
        """Move the anchor along a change of the part's columns; return what the record says of it.

        Raises:
            ValueError: If the step leaves the range of float32; then nothing moves.
        """

    def renew(self, sent: Broadcast) -> Renewed | None:
        """Give A its length back after a step on aligned rows; momentum and memory turn along.

        Args:
            sent: What the round started from.

        Returns:
            The way to the new gauge, for whoever else remembers rows; None where all stays.
        """
        return None

    @abstractmethod
    def align(self, row: Tensor, received: Received) -> Tensor | str:
        """Return a client's row, shape (d_i,), in the gauge of `combine`, or why it has none.

        A row that needs no change comes back as the same object.

        Raises:
            RunStoppedError: If the anchor itself is what cannot be aligned to.
        """

    @abstractmethod
    def gram(self, deltas: Deltas, terms: Terms) -> Gram:
        """Inner products of n rows (d_i,), then of the points that the rule has of its own."""

    @abstractmethod
    def inner(self, deltas: Deltas, change: C) -> Tensor:
        """Inner products of n rows (d_i,) with a change, shape (n,), float64."""

    @abstractmethod
    def point(self, change: C, whole: Received) -> LowRank:
        """A change as the point of product space that it moves the anchor by.

        Args:
            change: Of what `combine` makes.
            whole: The anchor, as the server has sent it.
        """

    @abstractmethod
    def shorter(self, change: C, scale: float) -> C | None:
        """A change times a number, for a line search; None if it cannot be scaled."""

    @abstractmethod
    def _combine(self, spool: Spool, sent: Broadcast, terms: Terms) -> Combined[C]:
        """Combine what the spool holds; clients' momentum has been put there."""

    def trial(self) -> Self:
        """A twin with the same optimizer and a copy of the rule's memory, to try updates on."""
        twin = copy(self)
        twin.rule = Rule(self.recipe, self.rule.state_dict())
        return twin

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs: ``anchor``, ``outer/...`` and ``rule/...``."""
        outer = self.outer.state_dict()
        anchor = {"anchor": outer.pop("anchor")}
        return anchor | named("outer", outer) | named("rule", self.rule.state_dict())

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a state dict; names of other parts are not looked at."""
        self.outer.load_state_dict({"anchor": state["anchor"], **under("outer", state)})
        self.rule.load_state_dict(under("rule", state))
