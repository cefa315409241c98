"""What became of rows that were too long, in words: nothing of them is left out in silence."""

from __future__ import annotations

from collections.abc import Sequence

from fedtune.records.lines import RoundRecord
from fedtune.records.manifest import Manifest
from fedtune.report.names import name_of
from fedtune.report.text import clean

MAX_NAMED = 8
MAX_REASON = 200  # of signs


def lost_rows(manifest: Manifest) -> list[str]:
    """How many training rows were cut and how many left out, with whom most, a line each."""
    words = {
        "were cut for their length": manifest.client_rows_cut,
        "were left out for their length": manifest.client_rows_dropped,
        "were left out, with nothing to learn": manifest.client_rows_mute,
        "have a prompt whose end is learnt as answer": manifest.client_rows_parted,
    }
    told = []
    if packs := sum(manifest.client_rows_packed):
        told.append(f"{sum(manifest.client_rows)} training rows are in {packs} packed sequences")
    for word, counts in words.items():
        if total := sum(counts):
            worst = max(range(len(counts)), key=counts.__getitem__)
            told.append(
                f"{total} training rows {word}, most of them, "
                f"{counts[worst]}, with {name_of(worst, manifest)}"
            )
    lost = [manifest.held_out_rows_cut, manifest.held_out_rows_dropped]
    told += [
        f"{count} held-out rows were {word} for their length"
        for word, count in zip(("cut", "left out"), lost, strict=True)
        if count
    ]
    return told


def unmeasured(records: Sequence[RoundRecord], manifest: Manifest) -> list[str]:
    """Clients that were not measured on rows of their own, and why, a line each."""
    refused = records[-1].evaluation_refused if records else {}
    told = [
        f"{name_of(client, manifest)} not measured on rows of its own: "
        f"{clean(refused[client], limit=MAX_REASON)}"
        for client in sorted(refused)[:MAX_NAMED]
    ]
    more = len(refused) - len(told)
    return [*told, f"{more} more clients not measured on rows of their own"] if more > 0 else told
