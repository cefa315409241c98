"""Who weighed nothing, and how often: counts that go on from record to record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedtune.records.lines import RoundRecord

Counts = dict[str, dict[str, int]]
KEYS = ("asked_rounds", "dropped_rounds")


def count_on(record: Mapping[str, Any], before: Counts) -> Counts:
    """The counts after a round.

    Args:
        record: The round's, with ``sampled``, ``refused`` and each good client's ``dropped``.
        before: The counts before it; left as they are.

    Returns:
        By client: ``asked_rounds`` of all who were ever asked, and ``dropped_rounds`` of those who
        were dropped at least once, by the rule or because no good reply came from them.
    """
    by_rule = {client for client, facts in record["clients"].items() if facts["dropped"]}
    return {
        "asked_rounds": _add(before["asked_rounds"], map(str, record["sampled"])),
        "dropped_rounds": _add(before["dropped_rounds"], by_rule | set(record["refused"])),
    }


def counts_of(records: Sequence[RoundRecord]) -> Counts:
    """The counts with which a run goes on: those of its newest record that has them."""
    for record in reversed(records):
        if record.asked_rounds:
            return {key: {str(k): n for k, n in getattr(record, key).items()} for key in KEYS}
    return {key: {} for key in KEYS}


def _add(counts: Mapping[str, int], clients: Iterable[str]) -> dict[str, int]:
    added = dict(counts)
    for client in clients:
        added[client] = added.get(client, 0) + 1
    return dict(sorted(added.items(), key=lambda item: int(item[0])))
