"""One picture of a run: how the loss fell, and the aggregation weight of each client."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fedtune.records.lines import RoundRecord
from fedtune.report.figures import loss_title
from fedtune.report.summary import summarise
from fedtune.report.text import clean, figure

INK, QUIET, LINE, WARNING = "#1f2933", "#69757f", "#0b6e8f", "#c1121f"
ABSENT = "#c8ced3"
# Orange is less than fair, blue more: told apart by every common colour blindness, and in grey
# by the dark ends.
WEIGHTS = LinearSegmentedColormap.from_list(
    "weights", ["#b35806", "#f1a340", "#fbf7f0", "#6cb2d3", "#11618f"]
)
SIZE_INCHES, DPI = (9.6, 4.2), 200
MAX_LABELS = 24  # more clients than this, and only every k-th is labelled
LOG_ABOVE = 30.0  # times between the lowest and the highest loss


def draw_curves(
    records: Sequence[RoundRecord],
    path: Path,
    *,
    attackers: Collection[int] = (),
    title: str = "",
) -> None:
    """Draw a run into one PNG: held-out loss by round, and each client's weight by round.

    Args:
        records: The lines of metrics.jsonl.
        path: The PNG; written whole, or not at all.
        attackers: The simulated attackers, to mark them; the rule never saw this.
        title: Written above, in one line.
    """
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 10}):
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08)
        picture = Figure(figsize=SIZE_INCHES, dpi=DPI, facecolor="white", layout=layout)
        FigureCanvasAgg(picture)
        left, right = picture.subplots(1, 2, gridspec_kw={"width_ratios": (1, 1.15)})
        _draw_loss(left, records)
        _draw_weights(picture, right, records, attackers)
        if title:
            picture.suptitle(
                clean(title, limit=96), fontsize=11, weight="bold", color=INK, parse_math=False
            )
        unfinished = path.with_name(f".{path.name}.tmp")
        picture.savefig(unfinished, format="png")
    os.replace(unfinished, path)


def _draw_loss(axes: Axes, records: Sequence[RoundRecord]) -> None:
    facts = summarise(records)
    known = [(round_, loss) for round_, loss in facts.curve if loss is not None]
    lost = [round_ for round_, loss in facts.curve if loss is None]
    _dress(axes, loss_title(facts.base), "round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(axis="y", color="#e6e9ec", linewidth=0.8)
    if not known:
        _say(axes, "not measured")
        return
    base = facts.base.get("loss")
    if base is not None:
        axes.axhline(base, color=QUIET, linestyle=(0, (5, 3)), linewidth=1.3)
        axes.annotate(
            f"base model {figure(base)}", (1, base), xycoords=("axes fraction", "data"),
            xytext=(-2, 4), textcoords="offset points", ha="right", color=QUIET, fontsize=9,
        )  # fmt: skip
    rounds, losses = zip(*known, strict=True)
    marker = "o" if len(known) <= 60 else ""
    axes.plot(rounds, losses, color=LINE, linewidth=2.2, marker=marker, markersize=5)
    falling = len(losses) < 2 or losses[-1] < losses[-2]  # the label keeps clear of the line
    axes.annotate(
        figure(losses[-1]), (rounds[-1], losses[-1]), xytext=(2, -8 if falling else 8),
        textcoords="offset points", ha="right", va="top" if falling else "bottom",
        color=LINE, weight="bold",
    )  # fmt: skip
    if min(losses) > 0 and max(losses) / min(losses) > LOG_ABOVE:
        axes.set_yscale("log")
    axes.margins(y=0.14)
    for round_ in lost:
        axes.axvline(round_, color=WARNING, linewidth=1, alpha=0.6)
    if lost:
        axes.text(0.02, 0.03, "red: not finite", transform=axes.transAxes, color=WARNING)


def _draw_weights(
    picture: Figure, axes: Axes, records: Sequence[RoundRecord], attackers: Collection[int]
) -> None:
    hint = "   (red: simulated attackers; the rule is not told)" * bool(attackers)
    _dress(axes, "Aggregation weight of each client", f"round{hint}")
    rounds = [record for record in records if record.round > 0]
    clients = sorted({client for record in rounds for client in record.asked})
    if not clients:
        _say(axes, "no round yet")
        return
    cells, refused = weight_cells(rounds, clients)
    if np.isnan(cells).all() and not refused:
        _say(axes, "this rule gives no weights")
        return
    highest = np.nanmax(cells) if not np.isnan(cells).all() else 0.0
    lowest = np.nanmin(cells) if not np.isnan(cells).all() else 0.0
    norm = TwoSlopeNorm(1.0, vmin=min(0.0, lowest), vmax=max(2.0, math.ceil(highest)))
    axes.set_facecolor(ABSENT)
    image = axes.imshow(cells, cmap=WEIGHTS, norm=norm, aspect="auto", interpolation="nearest")
    if refused:
        rows, columns = zip(*refused, strict=True)
        side = min(7.0, 180 / len(clients), 260 / len(rounds))
        axes.plot(columns, rows, "x", color=INK, markersize=side, markeredgewidth=1.4)
    _separate(axes, cells.shape)
    _label_rounds(axes, [record.round for record in rounds])
    _label_clients(axes, clients, attackers)
    bar = picture.colorbar(image, ax=axes, fraction=0.05, pad=0.02, ticks=[0, 1, norm.vmax])
    bar.ax.set_yticklabels(["0", "fair\nshare", f"{norm.vmax:.0f}x"], fontsize=9, color=INK)
    bar.outline.set_visible(False)
    notes = ["x  refused"] * bool(refused) + ["grey  not asked"] * _has_gaps(cells, refused)
    axes.set_title("    ".join(notes), loc="right", fontsize=9, color=QUIET)


def weight_cells(
    rounds: Sequence[RoundRecord], clients: Sequence[int]
) -> tuple[NDArray[np.float64], list[tuple[int, int]]]:
    """Each client's share times the clients asked, so that 1 is the fair share.

    Returns:
        The cells, clients x rounds, NaN where a client has no weight; and (row, column) of the
        replies that were refused.
    """
    row_of = {client: row for row, client in enumerate(clients)}
    cells = np.full((len(clients), len(rounds)), np.nan)
    refused = []
    for column, record in enumerate(rounds):
        count = len(record.asked)
        for client, share in record.shares.items():
            cells[row_of[client], column] = share * count
        refused += [(row_of[client], column) for client in record.refused]
    return cells, refused


def _has_gaps(cells: NDArray[np.float64], refused: Sequence[tuple[int, int]]) -> bool:
    return int(np.isnan(cells).sum()) > len(refused)


def _say(axes: Axes, words: str) -> None:
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", color=QUIET)
    axes.set(xticks=[], yticks=[])


def _dress(axes: Axes, title: str, x_label: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.set_xlabel(x_label, color=INK)
    axes.tick_params(which="both", colors=INK, length=0)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(QUIET)


def _separate(axes: Axes, shape: tuple[int, ...]) -> None:
    """White lines between the cells, as long as the cells are wide enough for them."""
    axes.spines["bottom"].set_visible(False)
    rows, columns = shape
    for edge, count, most in ((axes.axhline, rows, 40), (axes.axvline, columns, 60)):
        if count <= most:
            for i in range(1, count):
                edge(i - 0.5, color="white", linewidth=1.2)


def _label_rounds(axes: Axes, rounds: Sequence[int]) -> None:
    step = math.ceil(len(rounds) / 10)
    columns = range(0, len(rounds), step)
    axes.set_xticks(list(columns), [str(rounds[column]) for column in columns])


def _label_clients(axes: Axes, clients: Sequence[int], attackers: Collection[int]) -> None:
    shown = range(0, len(clients), math.ceil(len(clients) / MAX_LABELS))
    axes.set_yticks(
        list(shown),
        [f"{'attacker  ' * (clients[row] in attackers)}{clients[row]}" for row in shown],
        fontsize=9 if len(shown) <= 16 else 7,
    )
    for row, label in zip(shown, axes.get_yticklabels(), strict=True):
        if clients[row] in attackers:
            label.set(color=WARNING, weight="bold")
    for row, client in enumerate(clients):
        if client in attackers and row not in shown:
            axes.plot(
                -0.01, row, "<", color=WARNING, markersize=4, clip_on=False,
                transform=axes.get_yaxis_transform(),
            )  # fmt: skip
    axes.set_ylabel("client", color=INK)
