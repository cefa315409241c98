"""Who weighed nothing, and how often: counts that go on from record to record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fedtune.records.lines import RoundRecord

Counts = dict[str, dict[int, int]]
KEYS = ("asked_rounds", "dropped_rounds")


def count_on(record: RoundRecord, before: Counts) -> Counts:
    """The counts after a round.

    Args:
        record: The round's, with ``sampled``, ``refused`` and each good client's ``dropped``.
        before: The counts before it; left as they are.

    Returns:
        By client: ``asked_rounds`` of all who were ever asked, and ``dropped_rounds`` of those who
        were dropped at least once, by the rule or because no good reply came from them.
    """
    by_rule = {client for client, facts in record.clients.items() if facts.dropped}
    return {
        "asked_rounds": _add(before["asked_rounds"], record.sampled or ()),
        "dropped_rounds": _add(before["dropped_rounds"], by_rule | set(record.refused)),
    }


def counts_of(records: Sequence[RoundRecord]) -> Counts:
    """The counts with which a run goes on: those of its newest record that has them."""
    for record in reversed(records):
        if record.asked_rounds:
            return {key: dict(getattr(record, key)) for key in KEYS}
    return {key: {} for key in KEYS}


def _add(counts: Mapping[int, int], clients: Iterable[int]) -> dict[int, int]:
    added = dict(counts)
    for client in clients:
        added[client] = added.get(client, 0) + 1
    return dict(sorted(added.items()))
