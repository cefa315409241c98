"""Each client of a running federation: how often it was asked, heard, refused and dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fedtune.report.names import label_of
from fedtune.report.status import RunStatus
from fedtune.report.table import MAX_CLIENTS
from fedtune.report.text import figure, percent

HEADS = ("client", "this round", "train loss", "asked", "dropped", "refused", "weight", "rows")
LEGEND = (
    "asked, dropped: rounds; dropped: it had no part, by the rule or for want of a good reply; "
    "refused: replies, or none in time, this round's too; weight: its mean share; train loss: its "
    "own word"
)
MAX_LISTED = 10_000


@dataclass(frozen=True)
class Standing:
    """One client. What is not known is None.

    Attributes:
        client: Its number.
        label: The number with what it is called.
        rows: It trains on.
        asked: Rounds in whose sample it was.
        dropped: Rounds in which it had no part.
        refused: Replies that did not count, those of the round in progress among them.
        weight: Mean share over the rounds in which it was asked.
        train_loss: The last that it told.
        mark: In the round in progress: waiting, replied, refused; empty if it was not asked.
    """

    client: int
    label: str
    rows: int | None
    asked: int | None
    dropped: int | None
    refused: int
    weight: float | None
    train_loss: float | None
    mark: str


@dataclass(frozen=True)
class ClientRow:
    """A client as it is shown, under `HEADS`; ``mark`` as in `Standing`."""

    cells: tuple[str, ...]
    mark: str


def standings(status: RunStatus) -> list[Standing]:
    """All clients of a run by number, or of more than `MAX_LISTED` those that were heard of."""
    facts = {one.client: one for one in status.recorded.facts.clients}
    refused: Counter[int] = Counter()
    for each in status.refusals:
        refused[each.client] += each.times
    recorded, progress, rows = status.recorded, status.progress, status.rows
    num_clients = status.recipe.num_clients
    known = {client for client in {*facts, *progress.clients} if client < num_clients}
    found = []
    for client in sorted(known | set(range(min(num_clients, MAX_LISTED)))):
        own = facts.get(client)
        asked = recorded.asked_rounds.get(client)
        found.append(
            Standing(
                client=client,
                label=label_of(client, status.manifest),
                rows=rows.get(client),
                asked=asked,
                dropped=None if asked is None else recorded.dropped_rounds.get(client, 0),
                refused=refused[client],
                weight=own.mean_weight if own else None,
                train_loss=progress.losses.get(client, recorded.train_losses.get(client)),
                mark=progress.clients.get(client, ""),
            )
        )
    return found


def client_rows(status: RunStatus) -> tuple[list[ClientRow], int]:
    """The rows of all clients, or of a crowd those refused and dropped most often.

    Returns:
        The rows by client, and how many clients have none.
    """
    found = standings(status)
    worst = sorted(found, key=lambda one: -one.refused - (one.dropped or 0))[:MAX_CLIENTS]
    stopped = status.state == "stopped"
    rows = [
        ClientRow(_cells(one, "silent" if stopped else "waiting"), one.mark)
        for one in sorted(worst, key=lambda one: one.client)
    ]
    return rows, status.recipe.num_clients - len(rows)


def by_mark(found: Sequence[Standing], mark: str) -> list[int]:
    """The clients that stand so in the round in progress."""
    return [one.client for one in found if one.mark == mark]


def _cells(one: Standing, waiting: str) -> tuple[str, ...]:
    mark = waiting if one.mark == "waiting" else one.mark or "-"
    counts = (one.asked, one.dropped, one.refused)
    written = ("-" if count is None else str(count) for count in counts)
    rows = "-" if one.rows is None else str(one.rows)
    loss, weight = figure(one.train_loss), percent(one.weight)
    return (one.label, mark, loss, *written, weight, rows)
