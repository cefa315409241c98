"""What is kept of a good reply besides its row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedtune.records.lines import ClientRecord


@dataclass(frozen=True, eq=False)
class Update:
    """A good reply, read once; its row lies in the spool alone, where another may take its place.

    Attributes:
        client: Whose it is.
        metrics: Its own figures, for display alone.
        hash: SHA-256 over all that it sent, in hex.
    """

    client: int
    metrics: Mapping[str, float]
    hash: str

    def as_record(self) -> ClientRecord:
        """What the round's record says of it before the rule has weighed it."""
        said = dict(self.metrics)
        record = ClientRecord(train_loss=said.pop("train_loss", None), reply=self.hash)
        if said:
            record.said = {**said}
        return record
