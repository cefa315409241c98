"""The defence as a white-box attacker tries it: what the server would do with these lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from aggregators.geometry import LowRank, Point, Step
from fedtune.adapters.part import Part
from fedtune.recipe import Recipe
from fedtune.round.aggregation.combining import Combiner
from fedtune.round.aggregation.points import Combined, distance_between, point_of
from fedtune.round.broadcast import Broadcast
from fedtune.round.screening.intake import turn
from fedtune.round.screening.spool import Spool


@dataclass(frozen=True, eq=False)
class WhiteBox:
    """The rule of the round, its mixings, geometry and memory, on what the spool holds.

    What attackers cannot know is not in it: whether the server's own rows, or the clients' votes,
    let the step stand. ``f`` is what the server holds the replies to, None being the recipe's.
    ``others`` are the rows of those who do not lie as the server takes them, kept from the first
    trial on.
    """

    recipe: Recipe
    combiner: Combiner
    outer: object
    sent: Broadcast
    part: Part
    spool: Spool
    round_: int
    f: int | None = None
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
        change = self.point(made[1].change, geometry="product")
        assert isinstance(change, LowRank)
        return distance_between(mean, change, self.sent.whole)

    def combined(self, lies: Mapping[int, Tensor]) -> tuple[list[int], Combined] | None:
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
            return clients, Combiner(self.recipe, dict(self.combiner.state)).combine(
                tried,
                self.sent,
                self.part,
                round_=self.round_,
                outer=self.outer,
                f=self.f,
            )
        except ValueError:
            return None

    def other(self, client: int) -> Tensor | None:
        """The row of one who does not lie, as the server takes it; None: it is refused."""
        if client not in self.others:
            self.others[client] = self._as_taken(client, self.spool.row(client))
        return self.others[client]

    def point(
        self, change: Tensor | Point | Step, *, geometry: str | None = None
    ) -> LowRank | Tensor:
        """A change as a point of the run's geometry, or of the one that is asked for."""
        whole = self.sent.whole
        if (geometry or self.recipe.aggregator.geometry) == "factors":
            assert isinstance(change, Tensor)
            return change
        if isinstance(change, Step):
            return point_of(change.row - whole.anchor, whole)
        if isinstance(change, Tensor):
            return point_of(change, whole)
        pairs = tuple(change.pair(k) for k in range(len(change)))
        return LowRank(pairs, change.plain)

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
        """What the spool would hold of a client in the anchor's gauge, if it has one there."""
        if not torch.isfinite(row).all():
            return None
        if self.recipe.aggregator.geometry != "product":
            return row
        turned = turn(row, self.sent.to(client), self.recipe)
        return None if isinstance(turned, str) else turned
