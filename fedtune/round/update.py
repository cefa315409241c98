"""One client's update of a round, as the screen lets it through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fedtune.records.lines import ClientRecord


@dataclass(frozen=True, eq=False)
class Update:
    """A good reply, read once.

    Attributes:
        client: Whose it is.
        row: Its delta, a float32 row of what it trains, shape (d_i,); mapped from the spool, so
            that updates of many clients take no memory.
        metrics: Its own figures, for display alone.
        hash: SHA-256 over all that it sent, in hex.
    """

    client: int
    row: Tensor
    metrics: Mapping[str, float]
    hash: str

    def as_record(self) -> ClientRecord:
        """What the round's record says of it before the rule has weighed it."""
        said = dict(self.metrics)
        record = ClientRecord(train_loss=said.pop("train_loss", None), reply=self.hash)
        if said:
            record.said = {**said}
        return record
