"""What a round holds its rule to: how many may be Byzantine, who is left out, what is skipped."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import Tensor

from fedtune.adapters.part import Part
from fedtune.recipe import Aggregator


@dataclass(frozen=True, eq=False)
class Terms:
    """What the rule is held to in a round, and what it is given beside the updates.

    Attributes:
        clients: Those with a good reply, in ascending order.
        f: How many of them may be Byzantine.
        round_: Counted from 1.
        section: The recipe's, less the mixings that are not defined on so few replies.
        part: What the round trains.
        reference: The server's own row, shape (d,), for rules that compare with it.
        left_out: Clients that are to weigh nothing, no more than the rule can bear.
    """

    clients: Sequence[int]
    f: int
    round_: int
    section: Aggregator
    part: Part
    reference: Tensor | None = None
    left_out: Sequence[int] = ()

    @classmethod
    def of(
        cls,
        section: Aggregator,
        part: Part,
        clients: Sequence[int],
        f: int,
        round_: int,
        reference: Tensor | None = None,
    ) -> Terms:
        """The terms of a round in which nobody is left out yet."""
        return cls(clients, f, round_, section.fitted(len(clients), f), part, reference)

    @property
    def places(self) -> list[int]:
        """Where those left out stand among the clients."""
        return [self.clients.index(client) for client in self.left_out]

    @property
    def spare(self) -> int:
        """How many may be left out in all."""
        return self.section.spare(len(self.clients), self.f)


def f_of_the_rest(f: int, proven: Collection[int], clients: Collection[int]) -> int:
    """How many of the good replies may be Byzantine, once some clients have proven to be.

    One stays, where f has any: else an attacker with f + 1 keys could have f of them proven faulty,
    and then meet a rule that assumes no Byzantine client, and cuts nothing.

    Args:
        f: Of the recipe, of all clients that were asked.
        proven: Clients that sent in this round what no correct client sends.
        clients: Clients with a good reply, perhaps after that: they count among the rest.
    """
    return max(f - len(set(proven) - set(clients)), min(f, 1))
