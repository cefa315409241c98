"""The heatmap of one table: plain HTML that is read without a script."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import groupby

from fedtune.records.bench import (
    HOLDS,
    AttackSummary,
    CellSummary,
    DefenceSummary,
    Stat,
    TableSummary,
)
from fedtune.report.pages.details import sentence
from fedtune.report.pages.gain import colour_step, gain, percent_of, points, spread, step
from fedtune.report.pages.markup import Html, join, tag
from fedtune.report.pages.verdict import best_of, column_of, ranked

GOALS = {
    "harm": "Make the model worse",
    "backdoor": "Plant a backdoor",
    "shirk": "Do no work",
    "refused": "Break the protocol",
}
WORDS = {
    "diverged": "diverged",
    "stopped": "stopped",
    "crashed": "crashed",
    "refused": "cannot run",
    "skipped": "left out",
    "missing": "not run",
}
Number = Callable[[AttackSummary, DefenceSummary], int]


def matrix(table: TableSummary, number: Number, *, choice: str | None) -> Html:
    """Write the table: defences by their worst case, attacks by what they want.

    Args:
        table: One fraction of liars.
        number: The index of a cell's details, for the script.
        choice: The defence that the page recommends; its row is marked.
    """
    columns = in_groups(table)
    rows = [
        _row(table, defence, columns, number, chosen=defence.label == choice)
        for defence in ranked(table)
    ]
    grid = tag(
        "table",
        tag("caption", _caption(table), class_="unseen"),
        tag("thead", _group_heads(columns), _heads(table, columns)),
        tag("tbody", rows),
        tag("tfoot", _best_row(table, columns)),
        class_="matrix",
    )
    return tag("div", grid, class_="scroll", tabindex="0", role="region", aria_label="Matrix")


def in_groups(table: TableSummary) -> list[AttackSummary]:
    """The attacks by goal, in the order of `GOALS`; other goals after these."""
    order = {goal: place for place, goal in enumerate(GOALS)}
    return sorted(table.attacks, key=lambda attack: order.get(attack.goal, len(order)))


def _caption(table: TableSummary) -> str:
    return (
        f"Retained gain of each defence under each attack, {table.num_attackers} of "
        f"{table.num_clients} clients attacking, f = {table.f} assumed"
    )


def _group_heads(columns: list[AttackSummary]) -> Html:
    heads = [tag("td", colspan=3, class_="corner")]
    for goal, group in groupby(columns, key=lambda attack: attack.goal):
        heads.append(tag("th", GOALS.get(goal, goal), colspan=len(list(group)), scope="colgroup"))
    return tag("tr", heads, class_="groups")


def _heads(table: TableSummary, columns: list[AttackSummary]) -> Html:
    fixed = (
        tag("th", "Defence", scope="col", class_="name"),
        tag("th", "Worst case", scope="col", class_="worst-case"),
        tag("th", "Tax", scope="col", class_="tax"),
    )
    heads = [
        tag(
            "th",
            _breakable(one.label),
            _small("re-optimised" if one.searched else ""),
            scope="col",
            class_=_edge(columns, one),
        )
        for one in columns
    ]
    return tag("tr", fixed, heads, class_="heads")


def _breakable(label: str) -> Html:
    """A label that may break after its underscores and hyphens."""
    parts = re.split(r"(?<=[_/\-])", label)
    return Html("<wbr>".join(join(part) for part in parts if part))


def _own(table: TableSummary, defence: DefenceSummary) -> str:
    """What a row has otherwise than its table."""
    most = max(each.num_seeds for each in table.defences)
    told = [] if defence.f is None else [f"f = {defence.f}"]
    told += [f"{defence.num_seeds} of {most} seeds"] if defence.num_seeds < most else []
    return ", ".join(told)


def _row(
    table: TableSummary,
    defence: DefenceSummary,
    columns: list[AttackSummary],
    number: Number,
    *,
    chosen: bool,
) -> Html:
    worst = gain(defence.rank)
    shade = None if defence.rank is None else f"g{step(defence.rank)}"
    head = tag(
        "th",
        _breakable(defence.label),
        _small(_own(table, defence)),
        scope="row",
        class_="name",
        title=defence.what or None,
    )
    cells = [
        _cell(table, defence, attack, number(attack, defence), _edge(columns, attack))
        for attack in columns
    ]
    return tag(
        "tr",
        head,
        tag(
            "td",
            tag("b", worst),
            _small(_breakable(defence.worst.attack if defence.worst else "")),
            class_=_join(shade, "worst-case"),
        ),
        _tax(defence.tax),
        cells,
        class_="chosen" if chosen else None,
    )


def _tax(tax: Stat | None) -> Html:
    """Coloured by what is left: a tax of 0.1 leaves 0.9 of the gain."""
    shade = None if tax is None else f"g{step(1 - tax.mean)}"
    return tag(
        "td", percent_of(None if tax is None else tax.mean, digits=1), class_=_join(shade, "tax")
    )


def _cell(
    table: TableSummary,
    defence: DefenceSummary,
    attack: AttackSummary,
    index: int,
    edge: str | None,
) -> Html:
    cell = table.grid.get((defence.label, attack.label))
    shade, figures = face(cell, attack.goal)
    worst = "worst" if defence.worst and attack.label == defence.worst.attack else None
    label = f"{attack.label} on {defence.label}. {sentence(cell)}"
    inside = tag("span", figures, class_="cell", data_cell=index, data_label=label)
    return tag("td", inside, class_=_join(shade, worst, edge))


def face(cell: CellSummary | None, goal: str) -> tuple[str, Html]:
    """A cell's class and what stands in it; nothing that was not measured becomes a number."""
    if cell is None or cell.status != "done":
        status = "missing" if cell is None else cell.status
        return status, tag("i", WORDS[status])
    shade = colour_step(cell)
    if shade is None or cell.retained is None:
        return "missing", tag("i", "unknown")
    lower = spread(cell.retained)
    if cell.broken:
        lower = cell.broken
    elif cell.worse_than_base:
        lower = below_base(cell)
    elif cell.backdoor is not None:
        lower = obeyed(cell)
    elif goal == "refused" and cell.refused_share is not None:
        whole = round(cell.refused_share, 6) >= 1
        lower = "refused" if whole else f"refused {percent_of(cell.refused_share)}"
    return f"g{shade}", join(tag("b", gain(cell.retained.mean)), _small(lower))


def below_base(cell: CellSummary) -> str:
    """The mark of a run that ended worse than its base."""
    seeds = f": {len(cell.worse_than_base)} of {cell.of} seeds"
    return f"below base{seeds if cell.of > 1 else ''}"


def obeyed(cell: CellSummary) -> str:
    """How often the trigger is obeyed, and how far that is above the floor."""
    assert cell.backdoor is not None
    words = f"obeyed {percent_of(cell.backdoor.mean)}"
    return (
        words if cell.over_floor is None else f"{words}, {points(cell.over_floor)} over the floor"
    )


def _best_row(table: TableSummary, columns: list[AttackSummary]) -> Html:
    """What the best cell of each column reaches, and where none holds."""
    cells = [_best(table, attack, _edge(columns, attack)) for attack in columns]
    head = tag("th", f"Best of all (holds: {HOLDS:g})", scope="row", class_="name")
    return tag("tr", head, tag("td"), tag("td"), cells)


def _best(table: TableSummary, attack: AttackSummary, edge: str | None) -> Html:
    best = best_of(column_of(table, attack.label))
    if best is None:
        waiting = any(cell.status == "missing" for cell in column_of(table, attack.label))
        return tag("td", _small(WORDS["missing"] if waiting else "–"), class_=edge)
    figures: Html | str = tag("b", gain(best.retained.mean)) if best.retained else ""
    if best.status != "done":
        figures = WORDS[best.status]
    if best.backdoor is not None:
        figures = join(figures, _small(f"obeyed {percent_of(best.backdoor.mean)}"))
    words, shade = ("held", None) if best.holds else ("none holds", "leak")
    return tag("td", figures, tag("small", words, class_="outcome"), class_=_join(shade, edge))


def _edge(columns: list[AttackSummary], attack: AttackSummary) -> str | None:
    """The first column of a group keeps a distance from the one before."""
    place = columns.index(attack)
    return "edge" if place == 0 or columns[place - 1].goal != attack.goal else None


def _small(words: str) -> Html | None:
    return tag("small", words) if words else None


def _join(*classes: str | None) -> str | None:
    return " ".join(name for name in classes if name) or None
