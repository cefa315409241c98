"""What became of each round's step before its juries, in words for table, page, status, progress.

The juries are the server's own data (``trial`` in a record) and the clients' votes (``vote``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fedtune.records.lines import Jury, RoundRecord


def undone_in_words(records: Sequence[RoundRecord], rounds: int) -> str | None:
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
    names = list(dict.fromkeys(name for each in records for name in juries_of(each)))
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


def undone_so_far(records: Sequence[RoundRecord]) -> int | None:
    """The count that a run carries from record to record; None where nobody judged a step."""
    return max(
        (one.undone_rounds for one in records if one.undone_rounds is not None), default=None
    )


def outcome_of(record: RoundRecord) -> str | None:
    """accepted, halved, undone or no decision; None where nobody judged the step."""
    juries = [jury for jury in juries_of(record).values() if jury.decided is not None]
    if not juries:
        return None
    if undone_by(record) is not None:
        return "undone"
    if any(jury.decided == "no decision" for jury in juries):
        return "no decision"
    return "halved" if any(len(jury.tries) > 1 for jury in juries) else "accepted"


def undone_by(record: RoundRecord) -> str | None:
    """Whose refusal the last try failed by; None where the step stands, whole or in part.

    Clients are not asked about a candidate that the server's data refuse. So what both said last
    is of the last candidate, unless the server refused that.
    """
    juries = juries_of(record).items()
    return next((name for name, jury in juries if jury.decided == "undone"), None)


def juries_of(record: RoundRecord) -> dict[str, Jury]:
    """Who judged the step, by name."""
    asked = {"server data": record.trial, "vote": record.vote}
    return {name: jury for name, jury in asked.items() if jury is not None}
