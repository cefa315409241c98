"""A round's record as it is opened: who is drawn and what is trained; all else comes later."""

from __future__ import annotations

from fedtune.adapters.part import Part
from fedtune.recipe import Recipe
from fedtune.records.lines import RoundRecord
from fedtune.round.roster import sample_clients


def new_record(recipe: Recipe, part: Part, round_: int) -> RoundRecord:
    """The record of a round that begins, its clients drawn."""
    return RoundRecord(
        round=round_,
        trained=part.name,
        attempt=0,
        sampled=sample_clients(recipe, round_=round_),
        refused={},
        proven_faulty=[],
        clients={},
        upload_bytes=0,
        download_bytes=0,
        train_s=0.0,
    )
