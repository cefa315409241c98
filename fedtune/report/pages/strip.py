"""Who weighed how much in which round: a client a row, a round a column, as SVG."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from fedtune.records.lines import RoundRecord
from fedtune.report.pages.markup import Html, line, tag

LEFT, TOP, ROW = 54, 4, 18
WIDTH = 460
MAX_ROUNDS = 120  # more, and a column is thinner than a line
# Shares over the fair one, 1 / clients asked; each step's least value.
STEPS = (
    (1.5, 0, "over 1.5 of a fair share"),
    (0.5, 1, "0.5 to 1.5"),
    (-math.inf, 3, "under 0.5"),
    (math.nan, 5, "next to none: dropped"),
)


def strip(
    records: Sequence[RoundRecord], clients: Sequence[int], liars: Collection[int]
) -> Html | None:
    """Draw the last `MAX_ROUNDS` rounds of these clients.

    Args:
        records: Well-formed lines of metrics.jsonl.
        clients: The rows, in order.
        liars: Simulated liars, which are marked.

    Returns:
        The picture, or None where there is no round yet. A reply that was refused is crossed, one
        without a weight is grey, a client that was not asked leaves its place empty.
    """
    rounds = [record for record in records if record.round > 0][-MAX_ROUNDS:]
    if not rounds or not clients:
        return None
    wide = min(34.0, (WIDTH - LEFT) / len(rounds))
    height = TOP + ROW * len(clients) + 22
    row_of = {client: row for row, client in enumerate(clients)}
    parts = [_label(client, row, client in liars) for client, row in row_of.items()]
    stride = -(-len(rounds) // 12)
    for column, record in enumerate(rounds):
        left = LEFT + wide * column
        parts += _column(record, row_of, left, wide)
        if column % stride == 0:
            middle = round(left + wide / 2, 1)
            at = str(record.round)
            parts.append(tag("text", at, x=middle, y=height - 4, text_anchor="middle"))
    parts.append(tag("text", "round", x=LEFT - 10, y=height - 4, text_anchor="end"))
    return tag(
        "svg",
        tag("title", "Weight of each client by round"),
        parts,
        viewBox=f"0 0 {WIDTH} {height}", class_="curve strip", role="img",
    )  # fmt: skip


def legend() -> Html:
    """Write what the colours mean."""
    keys = [tag("li", tag("span", class_=f"key g{i}"), words) for _, i, words in STEPS]
    keys.append(tag("li", tag("span", "×", class_="key crossed"), "refused"))
    keys.append(tag("li", tag("span", class_="key plain"), "took part; the rule gives no weights"))
    return tag("ul", keys, class_="legend")


def left_out(records: Sequence[RoundRecord]) -> str | None:
    """Say what the picture does not show."""
    rounds = [record for record in records if record.round > 0]
    if len(rounds) <= MAX_ROUNDS:
        return None
    return f"The last {MAX_ROUNDS} of {len(rounds)} rounds; all are in metrics.jsonl."


def _column(record: RoundRecord, row_of: dict[int, int], left: float, wide: float) -> list[Html]:
    asked, shares, dropped = record.asked, record.shares, record.dropped
    refused = record.refused
    parts = []
    for client in asked:
        if client not in row_of:
            continue
        where = f"round {record.round}, client {client}: "
        if client in refused:
            kind, words = "crossed", f"refused: {line(refused[client])}"
        elif client in shares:
            fair = shares[client] * len(asked)
            kind = f"s{5 if dropped[client] else next(i for least, i, _ in STEPS if fair >= least)}"
            words = f"{fair:.2f} of a fair share"
        elif client in record.clients:
            kind, words = "plain", "took part"
        else:
            continue
        parts.append(_square(left, row_of[client], wide, kind, where + words))
    return parts


def _square(left: float, row: int, wide: float, kind: str, words: str) -> Html:
    gap = 1.5 if wide > 8 else 0.0
    top = TOP + ROW * row
    body = tag(
        "rect", tag("title", words), x=round(left, 1), y=top,
        width=round(wide - gap, 1), height=ROW - 1.5, class_=kind,
    )  # fmt: skip
    if kind != "crossed":
        return body
    middle, half = left + (wide - gap) / 2, min(4.0, wide / 3)
    centre = top + ROW / 2 - 1
    cross = "".join(
        f"M{middle - half:.1f} {centre - sign * half:.1f}L{middle + half:.1f} "
        f"{centre + sign * half:.1f}"
        for sign in (1, -1)
    )
    return Html(body + tag("path", d=cross, class_="cross"))


def _label(client: int, row: int, lies: bool) -> Html:
    words = f"{'liar ' * lies}{client}"
    y = TOP + ROW * row + 13
    return tag("text", words, x=LEFT - 10, y=y, text_anchor="end", class_="liar" if lies else None)
