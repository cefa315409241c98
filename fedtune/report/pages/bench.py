"""The page of a bench: which defence to use, where none holds, and every cell behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedtune.records.bench_figures import Stat
from fedtune.records.bench_summary import (
    HOLDS,
    AttackSummary,
    DefenceSummary,
    Summary,
    TableSummary,
    read_summary,
)
from fedtune.report.code_states import code_states
from fedtune.report.pages.definitions import WORDS
from fedtune.report.pages.details import cell_details
from fedtune.report.pages.gain import STEPS
from fedtune.report.pages.honest import HEADS, KEY, floor_words, honest_rows, tuned_words
from fedtune.report.pages.matrix import in_groups, matrix
from fedtune.report.pages.render import page
from fedtune.report.pages.verdict import choose, judge, ranked
from fedtune.report.pages.verdict_words import verdict_facts
from fedtune.report.text import duration, figure

ROUNDING = 1e-9  # below it an error is that of the arithmetic
LEVELS = {
    "training": "real federated training",
    "vectors": "one step at a time on given updates, without the outer optimizer",
}


def bench_page(said: object) -> str:
    """Write a bench's summary as one self-contained page.

    Args:
        said: What summary.json holds; all words of it are taken for strangers'.

    Returns:
        The HTML document. It needs no network, and no script to be read.

    Raises:
        ValueError: If the summary is not one that `fedtune bench` writes.
    """
    summary = read_summary(said)
    tables = summary.tables
    choice = choose(tables)
    verdicts = [] if choice is None else [judge(table, choice) for table in tables]
    details: list[dict[str, Any]] = []
    title = summary.title or "Which defence holds against which attack"
    return page(
        "bench.html.jinja",
        title,
        styles=("page.css", "chart.css", "bench.css"),
        scripts=("copy.js", "curve.js", "bench.js", "wide.js"),
        name=title,
        subtitle=_subtitle(summary),
        unfinished=_unfinished(summary),
        holds=f"{HOLDS:g}",
        steps=[words for _, words in STEPS],
        **verdict_facts(choice, verdicts),
        tables=[_table(one, place, details, summary) for place, one in enumerate(tables)],
        honest_heads=HEADS,
        honest_key=KEY,
        words=[*WORDS, *(("Note", note) for note in summary.notes)],
        command=summary.command,
        mixed=code_states(summary),
        made_by=_made_by(summary),
        data={
            "levels": [{"base": _mean(one.base), "oracle": _mean(one.oracle)} for one in tables],
            "cells": details,
        },
    )


def _table(
    table: TableSummary, place: int, details: list[dict[str, Any]], summary: Summary
) -> dict[str, Any]:
    """One table, the details of its cells added to those of the page."""
    indices: dict[tuple[str, str], int] = {}
    for defence in ranked(table):
        for attack in in_groups(table):
            cell = table.grid.get((defence.label, attack.label))
            indices[defence.label, attack.label] = len(details)
            details.append({"level": place, **cell_details(table, attack, defence, cell)})

    def index(attack: AttackSummary, defence: DefenceSummary) -> int:
        return indices[defence.label, attack.label]

    percent = table.percent_attackers.removesuffix(" attackers")
    first = f"Retained gain, {_seeds(summary)}. {_losses(table)}"
    return {
        "head": f"{table.num_attackers} of {table.num_clients} clients attack ({percent}), "
        f"f = {table.f} assumed",
        "told": [first, floor_words(table), tuned_words(table)],
        "honest": honest_rows(table),
        **matrix(table, index),
    }


def _losses(table: TableSummary) -> str:
    known = (
        ("untrained base", table.base),
        ("honest clients alone", table.oracle),
        ("mean of all with no attacker", table.mean_of_all),
    )
    words = ", ".join(f"{name} {_loss(value.mean)}" for name, value in known if value is not None)
    return f"Loss: {words}." if words else ""


def _loss(value: float) -> str:
    """A step that is the oracle's own errs by rounding alone."""
    return "0" if abs(value) < ROUNDING else figure(value)


def _seeds(summary: Summary) -> str:
    told = ", ".join(map(str, summary.seeds)) or "not said"
    return f"{'seed' if len(summary.seeds) == 1 else 'seeds'} {told}"


def _subtitle(summary: Summary) -> str:
    defences = {one.label for table in summary.tables for one in table.defences}
    attacks = {one.label for table in summary.tables for one in table.attacks}
    level = LEVELS.get(summary.level, summary.level)
    return f"{len(defences)} defences, {len(attacks)} attacks, {level}, {_seeds(summary)}"


def _unfinished(summary: Summary) -> str:
    done, of = summary.cells.done, summary.cells.of
    if done is None or of is None or done >= of:
        return ""
    return f"{of - done} of {of} runs are not done. Their results may change the verdict."


def _made_by(summary: Summary) -> Sequence[tuple[str, str]]:
    versions = ", ".join(f"{name} {each}" for name, each in summary.versions.items())
    facts = (
        ("Machine", summary.machine),
        ("Time of all runs", duration(summary.seconds, none="")),
        ("Versions, of this page", versions),
        ("Base recipe", summary.base_recipe),
        ("Code", ", ".join(summary.code)),
    )
    return [(label, text) for label, text in facts if text]


def _mean(stat: Stat | None) -> float | None:
    return None if stat is None else stat.mean
