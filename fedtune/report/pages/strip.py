"""Each client's aggregation weight in each round: a client a row, a round a column, as SVG."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from fedtune.records.lines import RoundRecord
from fedtune.report.pages.render import fill, line

LEFT, TOP, ROW = 72, 4, 18
WIDTH = 460
MAX_ROUNDS = 120  # more, and a column is thinner than a line
DROPPED = 5
# Shares over the fair one, 1 / clients asked: each step's least value, and its colour.
STEPS = ((1.5, 0, "over 1.5 of a fair share"), (0.5, 1, "0.5 to 1.5"), (0.0, 3, "under 0.5"))
LEGEND = [
    *((f"g{colour}", "", words) for _, colour, words in STEPS),
    (f"g{DROPPED}", "", "dropped: next to none"),
    ("crossed", "×", "refused"),
    ("plain", "", "took part; the rule gives no weights"),
]


@dataclass(frozen=True)
class Strip:
    """The picture, how high it is, and what it does not show."""

    svg: Markup
    height: int
    left_out: str


def weight_strip(
    records: Sequence[RoundRecord], clients: Sequence[int], attackers: Collection[int]
) -> Strip | None:
    """Draw the last `MAX_ROUNDS` rounds of these clients.

    Args:
        records: Of the run.
        clients: The rows, in order.
        attackers: Simulated ones, which are marked.

    Returns:
        None where there is no round yet. A reply that was refused is crossed, one without a weight
        is grey, a client that was not asked leaves its place empty.
    """
    rounds = [record for record in records if record.round > 0]
    if not rounds or not clients:
        return None
    shown = rounds[-MAX_ROUNDS:]
    wide = min(34.0, (WIDTH - LEFT) / len(shown))
    height = TOP + ROW * len(clients) + 22
    rows = {client: TOP + ROW * row for row, client in enumerate(clients)}
    stride = -(-len(shown) // 12)
    starts = [LEFT + wide * column for column in range(len(shown))]
    svg = fill(
        "strip.svg.jinja",
        width=WIDTH, height=height, left=LEFT,
        labels=[(top + 13, client, client in attackers) for client, top in rows.items()],
        squares=[
            square
            for start, record in zip(starts, shown, strict=True)
            for square in _column(record, rows, start, wide)
        ],
        rounds=[
            (round(start + wide / 2, 1), record.round)
            for start, record in list(zip(starts, shown, strict=True))[::stride]
        ],
    )  # fmt: skip
    left_out = f"The last {MAX_ROUNDS} of {len(rounds)} rounds; all are in metrics.jsonl."
    return Strip(svg, height, left_out if len(rounds) > MAX_ROUNDS else "")


def _column(
    record: RoundRecord, rows: dict[int, int], left: float, wide: float
) -> list[dict[str, Any]]:
    gap = 1.5 if wide > 8 else 0.0
    squares = []
    for client in record.asked:
        if client in rows and (found := _kind(record, client)) is not None:
            kind, words = found
            squares.append(
                {
                    "x": round(left, 1), "y": rows[client], "width": round(wide - gap, 1),
                    "height": ROW - 1.5, "kind": kind,
                    "title": f"round {record.round}, client {client}: {words}",
                    "cross": _cross(left + (wide - gap) / 2, rows[client], wide)
                    if kind == "crossed" else "",
                }
            )  # fmt: skip
    return squares


def _kind(record: RoundRecord, client: int) -> tuple[str, str] | None:
    """How a client's square is coloured, and what it says; None if nothing is known of it."""
    if client in record.refused:
        return "crossed", f"refused: {line(record.refused[client])}"
    if client not in record.clients:
        return None
    if (share := record.shares.get(client)) is None:
        return "plain", "took part"
    fair = share * len(record.asked)
    colour = next((colour for least, colour, _ in STEPS if fair >= least), STEPS[-1][1])
    return f"s{DROPPED if record.dropped[client] else colour}", f"{fair:.2f} of a fair share"


def _cross(middle: float, top: int, wide: float) -> str:
    half, centre = min(4.0, wide / 3), top + ROW / 2 - 1
    return "".join(
        f"M{middle - half:.1f} {centre - sign * half:.1f}L{middle + half:.1f} "
        f"{centre + sign * half:.1f}"
        for sign in (1, -1)
    )
