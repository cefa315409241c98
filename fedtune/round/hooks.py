"""Where a simulation plugs into the round: on the wire, on the updates, after the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from aggregators.geometry import Renewed
from fedtune.adapters.part import Part
from fedtune.messages.transport import Transport
from fedtune.recipe import Recipe
from fedtune.round.aggregation.geometry import Geometry
from fedtune.round.broadcast import Broadcast
from fedtune.round.screening.spool import Spool


@dataclass(frozen=True, eq=False)
class RoundView:
    """The server's side of a round once its updates are in, before they are combined.

    Attributes:
        recipe: The run's.
        geometry: How updates are compared, combined and stepped, with what the rule remembers.
        sent: What the clients started from.
        part: What the round trains.
        spool: The screened updates.
        round_: Counted from 1.
        f: How many of the updates the rule takes for Byzantine.
    """

    recipe: Recipe
    geometry: Geometry[Any]
    sent: Broadcast
    part: Part
    spool: Spool
    round_: int
    f: int


class Hooks(Protocol):
    """What a simulation does to a round."""

    def on_wire(
        self, transport: Transport, client_of: Mapping[int, int], *, round_: int
    ) -> tuple[Transport, AbstractSet[str]]:
        """The transport as this round's server sees it, and the orders that are never answered.

        Args:
            transport: The true one.
            client_of: Client number by node id.
            round_: Counted from 1.
        """

    def on_updates(self, fresh: Sequence[int], view: RoundView) -> dict[int, Tensor]:
        """Updates that take the place of what clients have sent, by client.

        Args:
            fresh: Whose updates have come in this try.
            view: The round.
        """

    def after_step(self, step: Tensor, renewed: Renewed | None) -> None:
        """Hear what the outer step added to the anchor, shape (d,), and of a change of gauge."""

    def state_dict(self) -> dict[str, Tensor]:
        """What is remembered from round to round, copied."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a copy of that."""


class NoHooks:
    """A round as it is: nothing is simulated."""

    def on_wire(
        self, transport: Transport, client_of: Mapping[int, int], *, round_: int
    ) -> tuple[Transport, AbstractSet[str]]:
        """The transport itself."""
        return transport, frozenset()

    def on_updates(self, fresh: Sequence[int], view: RoundView) -> dict[int, Tensor]:
        """None."""
        return {}

    def after_step(self, step: Tensor, renewed: Renewed | None) -> None:
        """Nothing."""

    def state_dict(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Nothing."""
