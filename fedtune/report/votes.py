"""What the clients' votes came to, in words for table, page, status and progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedtune.report.text import number

Record = Mapping[str, Any]
OUTCOMES = ("accepted", "undone", "no decision")


def votes_in_words(records: Sequence[Record], rounds: int) -> str | None:
    """How many rounds were undone by vote, shortened, or left without a decision.

    Args:
        records: Of metrics.jsonl.
        rounds: That are done.

    Returns:
        Such as "2 of 8 rounds undone by vote, 1 at half its length"; None where nobody voted.
    """
    told = [outcome for record in records if (outcome := outcome_of(record)) is not None]
    if not told:
        return None
    words = f"{undone_so_far(records)} of {rounds} rounds undone by vote"
    if halved := sum(outcome == "halved" for outcome in told):
        words += f", {halved} at half length"
    if open_ := sum(outcome == "no decision" for outcome in told):
        words += f", {open_} without a decision"
    return words


def undone_so_far(records: Sequence[Record]) -> int | None:
    """The count that a run carries from record to record; None where nobody voted."""
    carried = [
        value for each in records if (value := number(each.get("undone_rounds"))) is not None
    ]
    return int(max(carried)) if carried else None


def outcome_of(record: Record) -> str | None:
    """accepted, halved, undone or no decision; None where nobody voted."""
    section = record.get("vote")
    if not isinstance(section, Mapping):
        return None
    decided, tries = section.get("decided"), section.get("tries")
    if decided == "accepted" and isinstance(tries, Sequence) and len(tries) > 1:
        return "halved"
    return decided if isinstance(decided, str) and decided in OUTCOMES else None
