"""The defence as a white-box attacker tries it: what the server would do with these lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fedtune.adapters.part import Part
from fedtune.recipe import Recipe
from fedtune.round.aggregation.geometry import Geometry
from fedtune.round.aggregation.points import Combined, distance_between
from fedtune.round.aggregation.terms import Terms
from fedtune.round.broadcast import Broadcast
from fedtune.round.screening.spool import Spool


@dataclass(frozen=True, eq=False)
class WhiteBox:
    """The rule of the round, its mixings, geometry and memory, on what the spool holds.

    What attackers cannot know is not in it: whether the server's own rows, or the clients' votes,
    let the step stand. ``f`` is what the server holds the replies to.
    ``others`` are the rows of those who do not lie as the server takes them, kept from the first
    trial on.
    """

    recipe: Recipe
    geometry: Geometry[Any]
    sent: Broadcast
    part: Part
    spool: Spool
    round_: int
    f: int
    others: dict[int, Tensor | None] = field(default_factory=dict, repr=False)

    def harm(self, lies: Mapping[int, Tensor], honest: Sequence[Tensor]) -> float:
        """How far the aggregate would move from the honest mean, in what the model feels: s BA.

        Args:
            lies: The attackers' rows, by client, each at its own rank.
            honest: The honest rows of the round, widened to the full rank; at least one.

        Returns:
            The distance between the two changes of the products; 0 where the server would refuse
            every lie or have nothing to combine.
        """
        made = self.combined(lies) if honest else None
        if made is None:
            return 0.0  # such a lie stops the run with an error, and moves nothing
        mean = torch.stack(list(honest)).to(torch.float64).mean(dim=0).to(torch.float32)
        change = self.geometry.point(made[1].change, self.sent.whole)
        return distance_between(mean, change, self.sent.whole)

    def combined(self, lies: Mapping[int, Tensor]) -> tuple[list[int], Combined[Any]] | None:
        """What the server would combine these and the other replies to, and whose they are.

        None where it would have nothing to combine, or stop with an error.
        """
        tried = Spool()
        for client, row in self._taken(lies):
            if row is not None:
                tried.put(client, row)
        if not self.recipe.aggregator.is_defined(tried.clients, self.f):
            return None
        clients = tried.clients
        try:
            return clients, self.geometry.trial().combine(tried, self.sent, self.terms(clients))
        except ValueError:
            return None

    def terms(self, clients: Sequence[int]) -> Terms:
        """What the server would hold its rule to, were these the good replies."""
        return Terms.of(self.recipe.aggregator, self.part, clients, self.f, self.round_)

    def other(self, client: int) -> Tensor | None:
        """The row of one who does not lie, as the server takes it; None: it is refused."""
        if client not in self.others:
            self.others[client] = self._as_taken(client, self.spool.row(client))
        return self.others[client]

    def _taken(self, lies: Mapping[int, Tensor]) -> Iterator[tuple[int, Tensor | None]]:
        """Each client's row as the server would take it; what is equal is brought there once."""
        lie, turned = torch.empty(0), None
        for client in self.spool.clients:
            if client not in lies:
                yield client, self.other(client)
                continue
            if not torch.equal(lies[client], lie):
                lie, turned = lies[client], self._as_taken(client, lies[client])
            yield client, turned

    def _as_taken(self, client: int, row: Tensor) -> Tensor | None:
        """What the spool would hold of a client once aligned, if it can be."""
        if not torch.isfinite(row).all():
            return None
        aligned = self.geometry.align(row, self.sent.to(client))
        return None if isinstance(aligned, str) else aligned
