"""What each client starts a round from: the anchor, at the client's own rank."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from aggregators.geometry import AnchorGauge, Factors, receive
from fedtune.adapters.layout import Layout
from fedtune.adapters.part import Part
from fedtune.adapters.ranks import narrow
from fedtune.messages.message import ArrayRecord
from fedtune.messages.wire import hash_row, to_arrays
from fedtune.recipe import Lora, Recipe
from fedtune.round.aggregation.factors import describe


@dataclass(frozen=True, eq=False)
class Received:
    """What one client, or all of one rank, received.

    Attributes:
        part: What it trains and sends, at its rank.
        anchor: The whole adapter at its rank, a float32 row.
        lora: The recipe's section.
    """

    part: Part
    anchor: Tensor
    lora: Lora

    @cached_property
    def start(self) -> Tensor:
        """The anchor's columns that the client trains; its delta is measured from them."""
        return self.part.take(self.anchor)

    @cached_property
    def anchor_hash(self) -> str:
        """The hash of the anchor, worked out once for all who received it."""
        return hash_row(self.anchor, self.part.whole)

    @cached_property
    def arrays(self) -> ArrayRecord:
        """The anchor as it travels, made once for all who receive it."""
        return to_arrays(self.anchor, self.part.whole)

    @cached_property
    def gauge(self) -> AnchorGauge:
        """What rows are aligned to, worked out once for all who received it."""
        return AnchorGauge(self.start, self.factors)

    @cached_property
    def factors(self) -> Factors:
        """The description of the client's row."""
        return describe(self.part, self.anchor, self.lora)


class Broadcast:
    """The anchor of one round, for every client.

    A client of a lower rank receives the best approximation of its rank. What that leaves out is
    no one's update: the client's delta is measured from what it received.
    """

    def __init__(self, recipe: Recipe, layout: Layout, anchor: Tensor, *, round_: int) -> None:
        self._lora, self._layout, self._anchor, self._round = recipe.lora, layout, anchor, round_
        self._by_rank: dict[int, Received] = {}

    def to(self, client: int) -> Received:
        """What this client receives; clients of one rank share the object."""
        return self._of_rank(self._lora.rank_of(client))

    @property
    def whole(self) -> Received:
        """The server's own view, at the full rank: what clients of that rank receive."""
        return self._of_rank(self._lora.r)

    @property
    def hashes(self) -> dict[str, Any]:
        """What a record says of it: the anchor's hash, and that of each lower rank of a client."""
        lower = {rank: self._of_rank(rank).anchor_hash for rank in self._lower}
        return {"anchor": self.whole.anchor_hash, **({"anchors": lower} if lower else {})}

    @property
    def _lower(self) -> list[int]:
        return sorted(set(self._lora.client_ranks or ()) - {self._lora.r})

    def _of_rank(self, rank: int) -> Received:
        if rank not in self._by_rank:
            self._by_rank[rank] = self._at(rank)
        return self._by_rank[rank]

    def _at(self, rank: int) -> Received:
        layout, anchor = self._layout, self._anchor
        if rank < self._lora.r:
            layout = narrow(self._layout, rank)
            anchor = receive(anchor, self._describe(self._layout), self._describe(layout))
        return Received(Part.of_round(layout, self._lora.train, self._round), anchor, self._lora)

    def _describe(self, layout: Layout) -> Factors:
        return describe(Part("both", layout), None, self._lora)
