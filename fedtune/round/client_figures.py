"""What clients report of the anchor on their own held-out rows: their word, for display alone."""

from __future__ import annotations

from collections.abc import Iterable

from fedtune.messages.message import Message, MetricRecord
from fedtune.records.events import Ignored, Observer
from fedtune.records.lines import RoundRecord
from fedtune.round.exchange import Exchange
from fedtune.round.screening.screen import read_evaluations


def note_evaluations(
    replies: Iterable[Message], exchange: Exchange, record: RoundRecord, observer: Observer
) -> MetricRecord | None:
    """Write each client's own figures into a round's record, and why others gave none.

    Args:
        replies: As they come.
        exchange: By whose way they come: it tells whose each is, and which were not kept.
        record: The round's.
        observer: Told of every refusal.

    Returns:
        The plain mean of the losses; None where nobody gave one.
    """
    figures, refused = read_evaluations({exchange.gathered.sender(each): each for each in replies})
    refused |= exchange.gathered.refused
    for client, reason in refused.items():
        observer(Ignored(record.round, client, f"evaluation: {reason}"))  # its reply counts
        record.evaluation_refused = {**record.evaluation_refused, client: reason}
    record.note(client_eval=figures)
    losses = [figure["loss"] for figure in figures.values()]
    return MetricRecord({"loss": sum(losses) / len(losses)}) if losses else None
