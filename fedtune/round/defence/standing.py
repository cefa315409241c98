"""Who weighed nothing, and how often: counts that go on from record to record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Counts = dict[str, dict[str, int]]
KEYS = ("asked_rounds", "dropped_rounds")


NOTHING = 1e-6  # of an equal share: a liar at 3e38 has a weight of 5e-42 in a geometric median


def is_dropped(weight: float | None, num_clients: int) -> bool | None:
    """Whether a good reply had next to no part in the aggregate of so many.

    Less than a millionth of an equal share is none. A rule on columns uses nearly everyone at some
    coordinate, and drops no one. None where the rule gives no weights.
    """
    return None if weight is None else abs(weight) < NOTHING / num_clients


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


def counts_of(records: Sequence[Mapping[str, Any]]) -> Counts:
    """The counts with which a run goes on: those of its newest record that has them."""
    for record in reversed(records):
        if all(key in record for key in KEYS):
            return {key: dict(record[key]) for key in KEYS}
    return {key: {} for key in KEYS}


def _add(counts: Mapping[str, int], clients: Iterable[str]) -> dict[str, int]:
    added = dict(counts)
    for client in clients:
        added[client] = added.get(client, 0) + 1
    return dict(sorted(added.items(), key=lambda item: int(item[0])))
