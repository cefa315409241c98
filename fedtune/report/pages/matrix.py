"""The heatmap of one table: what stands in each of its cells, and how it is coloured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from fedtune.records.bench_summary import AttackSummary, CellSummary, DefenceSummary, TableSummary
from fedtune.report.pages.details import sentence
from fedtune.report.pages.gain import colour_step, gain, percent_of, points, spread, step
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


def matrix(table: TableSummary, number: Number) -> dict[str, Any]:
    """The table for the page's template: defences by their worst case, attacks by their goal.

    Args:
        table: One fraction of attackers.
        number: The index of a cell's details, for the script.
    """
    columns = in_groups(table)
    return {
        "caption": f"Retained gain of each defence under each attack, {table.num_attackers} of "
        f"{table.num_clients} clients attacking, f = {table.f} assumed",
        "groups": [
            (GOALS.get(goal, goal), len(list(group)))
            for goal, group in groupby(columns, key=lambda attack: attack.goal)
        ],
        "columns": [
            {"label": one.label, "searched": one.searched, "edge": _edge(columns, one)}
            for one in columns
        ],
        "rows": [_row(table, defence, columns, number) for defence in ranked(table)],
        "best": [_best(table, attack, _edge(columns, attack)) for attack in columns],
    }


def in_groups(table: TableSummary) -> list[AttackSummary]:
    """The attacks by goal, in the order of `GOALS`; other goals after these."""
    order = {goal: place for place, goal in enumerate(GOALS)}
    return sorted(table.attacks, key=lambda attack: order.get(attack.goal, len(order)))


def _own(table: TableSummary, defence: DefenceSummary) -> str:
    """What a row has otherwise than its table."""
    most = max(each.num_seeds for each in table.defences)
    told = [] if defence.f is None else [f"f = {defence.f}"]
    told += [f"{defence.num_seeds} of {most} seeds"] if defence.num_seeds < most else []
    return ", ".join(told)


def _row(
    table: TableSummary, defence: DefenceSummary, columns: Sequence[AttackSummary], number: Number
) -> dict[str, Any]:
    """A row; a tax of 0.1 is coloured by the 0.9 of the gain that it leaves."""
    tax = None if defence.tax is None else defence.tax.mean
    return {
        "label": defence.label,
        "own": _own(table, defence),
        "what": defence.what,
        "shade": "" if defence.rank is None else f"g{step(defence.rank)}",
        "worst": gain(defence.rank),
        "attack": defence.worst.attack if defence.worst else "",
        "tax_shade": "" if tax is None else f"g{step(1 - tax)}",
        "tax": percent_of(tax, digits=1),
        "cells": [
            _cell(table, defence, attack, number(attack, defence), _edge(columns, attack))
            for attack in columns
        ],
    }


def _cell(
    table: TableSummary, defence: DefenceSummary, attack: AttackSummary, index: int, edge: str
) -> dict[str, Any]:
    cell = table.grid.get((defence.label, attack.label))
    worst = defence.worst is not None and attack.label == defence.worst.attack
    face = _face(cell, attack.goal)
    return {
        "gain": "", "below": "", "word": "", **face,
        "classes": (face["shade"], "worst" if worst else "", edge),
        "index": index,
        "label": f"{attack.label} on {defence.label}. {sentence(cell)}",
    }  # fmt: skip


def _face(cell: CellSummary | None, goal: str) -> dict[str, str]:
    """A cell's shade and what stands in it; nothing that was not measured becomes a number."""
    if cell is None or cell.status != "done":
        status = "missing" if cell is None else cell.status
        return {"shade": status, "word": WORDS[status]}
    shade = colour_step(cell)
    if shade is None or cell.retained is None:
        return {"shade": "missing", "word": "unknown"}
    lower = spread(cell.retained)
    if cell.broken:
        lower = cell.broken
    elif cell.worse_than_base:
        lower = below_base(cell)
    elif cell.backdoor is not None:
        over = "" if cell.over_floor is None else f", {points(cell.over_floor)} over the floor"
        lower = f"obeyed {percent_of(cell.backdoor.mean)}{over}"
    elif goal == "refused" and cell.refused_share is not None:
        whole = round(cell.refused_share, 6) >= 1
        lower = "refused" if whole else f"refused {percent_of(cell.refused_share)}"
    return {"shade": f"g{shade}", "gain": gain(cell.retained.mean), "below": lower}


def below_base(cell: CellSummary) -> str:
    """The mark of a run that ended worse than its base."""
    seeds = f": {len(cell.worse_than_base)} of {cell.of} seeds"
    return f"below base{seeds if cell.of > 1 else ''}"


def _best(table: TableSummary, attack: AttackSummary, edge: str) -> dict[str, Any]:
    """What the best cell of a column reaches, and whether none holds."""
    column = column_of(table, attack.label)
    best = best_of(column)
    empty = {"gain": "", "word": "", "below": "", "outcome": "", "classes": (edge,)}
    if best is None:
        waiting = any(cell.status == "missing" for cell in column)
        return {**empty, "below": WORDS["missing"] if waiting else "–"}
    return {
        "gain": gain(best.retained.mean) if best.retained else "",
        "word": "" if best.status == "done" else WORDS[best.status],
        "below": f"obeyed {percent_of(best.backdoor.mean)}" if best.backdoor else "",
        "outcome": "held" if best.holds else "none holds",
        "classes": ("" if best.holds else "leak", edge),
    }


def _edge(columns: Sequence[AttackSummary], attack: AttackSummary) -> str:
    """The first column of a group keeps a distance from the one before."""
    place = list(columns).index(attack)
    return "edge" if place == 0 or columns[place - 1].goal != attack.goal else ""
