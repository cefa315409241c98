"""What became of each round's step before its juries, in words for table, page, status, progress.

The juries are the server's own rows (``trial`` in a record) and the clients' votes (``vote``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fedtune.report.text import number

Record = Mapping[str, Any]
JURIES = {"trial": "server data", "vote": "vote"}
OUTCOMES = ("accepted", "undone", "no decision")


def undone_in_words(records: Sequence[Record], rounds: int) -> str | None:
    """How many rounds were undone and by whom, shortened, or left without a decision.

    Args:
        records: Of metrics.jsonl.
        rounds: That are done.

    Returns:
        Such as "2 of 8 rounds undone by vote, 1 at half length"; with two juries "3 of 8 rounds
        undone (2 by server data, 1 by vote)"; None where nobody judged a step.
    """
    told = [outcome for record in records if (outcome := outcome_of(record)) is not None]
    if not told:
        return None
    names = [name for key, name in JURIES.items() if any(_decided(each, key) for each in records)]
    words = f"{undone_so_far(records)} of {rounds} rounds undone"
    by = Counter(name for record in records if (name := undone_by(record)) is not None)
    if len(names) == 1:
        words += f" by {names[0]}"
    elif by:
        words += f" ({', '.join(f'{by[name]} by {name}' for name in names if by[name])})"
    if halved := sum(outcome == "halved" for outcome in told):
        words += f", {halved} at half length"
    if open_ := sum(outcome == "no decision" for outcome in told):
        words += f", {open_} without a decision"
    return words


def undone_so_far(records: Sequence[Record]) -> int | None:
    """The count that a run carries from record to record; None where nobody judged a step."""
    carried = [
        value for each in records if (value := number(each.get("undone_rounds"))) is not None
    ]
    return int(max(carried)) if carried else None


def outcome_of(record: Record) -> str | None:
    """accepted, halved, undone or no decision; None where nobody judged the step."""
    decisions = [decided for key in JURIES if (decided := _decided(record, key)) is not None]
    if not decisions:
        return None
    if undone_by(record) is not None:
        return "undone"
    if "no decision" in decisions:
        return "no decision"
    return "halved" if any(_num_tries(record, key) > 1 for key in JURIES) else "accepted"


def undone_by(record: Record) -> str | None:
    """Whose refusal the last try failed by; None where the step stands, whole or in part.

    Clients are not asked about a candidate that the server's rows refuse. So what both said last
    is of the last candidate, unless the server refused that.
    """
    for key, name in JURIES.items():
        if _decided(record, key) == "undone":
            return name
    return None


def _decided(record: Record, key: str) -> str | None:
    section = record.get(key)
    decided = section.get("decided") if isinstance(section, Mapping) else None
    return decided if isinstance(decided, str) and decided in OUTCOMES else None


def _num_tries(record: Record, key: str) -> int:
    section = record.get(key)
    tries = section.get("tries") if isinstance(section, Mapping) else None
    return len(tries) if isinstance(tries, Sequence) else 0
