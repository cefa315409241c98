"""The clients of a run as a table, and whose replies were refused for what."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from fedtune.records.lines import RoundRecord
from fedtune.report.pages.markup import Html, line, tag
from fedtune.report.summary import ClientFacts
from fedtune.report.text import figure, percent

MAX_REASONS = 40

HEADS = ("client", "rows", "weight", "of fair", "low", "dropped", "far", "refused", "own loss")
LEGEND = (
    "weight: mean share over the rounds it was asked in; of fair: the same over 1 / clients asked; "
    "low: rounds below half of that; dropped: rounds at weight 0, refused or silent; far: its "
    "distance to the aggregate over the median client's; own loss: held out, the client's own word."
)


def client_table(
    clients: Sequence[ClientFacts], rows: Sequence[object], liars: Collection[int]
) -> Html:
    """Write one line per client.

    Args:
        clients: What is known of each.
        rows: How many training rows each has, by its number.
        liars: The simulated ones, which are marked; the rule is never told.
    """
    heads = [tag("th", head, scope="col") for head in HEADS]
    lines = [_line(one, rows, one.client in liars) for one in clients]
    body = tag("table", tag("thead", tag("tr", heads)), tag("tbody", lines), class_="clients")
    return tag("div", body, class_="scroll", tabindex="0", role="region", aria_label="Clients")


def refusals(records: Sequence[RoundRecord]) -> Html | None:
    """Write each refused client's reasons once, with the rounds."""
    found: dict[tuple[int, str], list[int]] = {}
    for record in records:
        for client, reason in sorted(record.refused.items()):
            found.setdefault((client, line(reason, 400)), []).append(record.round)
    if not found:
        return None
    items = [
        tag("li", tag("strong", f"client {client}, {_rounds(rounds)}: "), reason)
        for (client, reason), rounds in list(found.items())[:MAX_REASONS]
    ]
    if (left := len(found) - MAX_REASONS) > 0:
        items.append(tag("li", f"{left} more are in metrics.jsonl"))
    return tag("ul", items, class_="refusals")


def _line(one: ClientFacts, rows: Sequence[object], lies: bool) -> Html:
    name = [str(one.client), tag("em", " liar")] if lies else str(one.client)
    ratio = None
    if one.mean_weight is not None and one.fair_share:
        ratio = one.mean_weight / one.fair_share
    dropped = one.times_dropped
    cells = [
        str(rows[one.client]) if one.client < len(rows) else "–",
        percent(one.mean_weight, none="–"),
        "–" if ratio is None else f"{ratio:.2f}×",
        str(one.times_low or "–"),
        "–" if dropped is None else f"{dropped} of {one.rounds_asked}",
        "–" if one.far is None else f"{one.far:.3g}",
        str(one.times_refused or "–"),
        figure(one.own_loss, none="–"),
    ]
    row = [tag("td", cell) for cell in cells]
    return tag("tr", tag("th", name, scope="row"), row, class_="lies" if lies else None)


def _rounds(rounds: Sequence[int]) -> str:
    if len(rounds) > 6:
        return f"{len(rounds)} rounds from {rounds[0]} to {rounds[-1]}"
    word = "round" if len(rounds) == 1 else "rounds"
    return f"{word} {', '.join(map(str, rounds))}"
