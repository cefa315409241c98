"""What a round moves, taken down before it, and put back together where the round is undone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from fedtune.round.aggregation.geometry import Geometry
from fedtune.round.aggregation.named_tensors import named, under
from fedtune.round.defence.standing import Counts
from fedtune.round.hooks import Hooks


class Moved(Protocol):
    """A server's part that a round moves."""

    geometry: Geometry[Any]
    hooks: Hooks
    counts: Counts


@dataclass(frozen=True, eq=False)
class State:
    """All that a round moves; none of it goes back without the rest.

    Attributes:
        tensors: The sum of the state dicts of all that remembers, as a checkpoint has it: the
            global adapter, ``outer/...``, ``rule/...`` and, of simulated attackers, ``attack/...``.
        counts: How often each client was asked, and how often dropped.
    """

    tensors: dict[str, Tensor]
    counts: Counts

    @classmethod
    def of(cls, server: Moved) -> State:
        """Take a server's state down. The rule's tensors are replaced, and never written into."""
        attack = named("attack", server.hooks.state_dict())
        return cls(server.geometry.state_dict() | attack, server.counts)

    @property
    def anchor(self) -> Tensor:
        """The global adapter, shape (d,), float32."""
        return self.tensors["anchor"]

    def put_back(self, server: Moved) -> None:
        """Go back to this state, all of it at once, as a resumed run does."""
        server.geometry.load_state_dict(self.tensors)
        server.hooks.load_state_dict(under("attack", self.tensors))
        server.counts = self.counts
