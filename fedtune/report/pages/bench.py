"""The page of a bench: which defence to use, where none holds, and every cell behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedtune.records.bench import (
    AttackSummary,
    DefenceSummary,
    Stat,
    Summary,
    TableSummary,
    read_summary,
)
from fedtune.report.code_states import code_states
from fedtune.report.pages.definitions import definitions
from fedtune.report.pages.details import cell_details
from fedtune.report.pages.gain import STEPS
from fedtune.report.pages.honest import floor_words, honest_table, tuned_words
from fedtune.report.pages.markup import Html, tag
from fedtune.report.pages.matrix import in_groups, matrix
from fedtune.report.pages.shell import command_box, document, facts_list
from fedtune.report.pages.verdict import choose, judge, ranked
from fedtune.report.pages.verdict_words import verdict_section
from fedtune.report.text import duration, figure

ROUNDING = 1e-9  # below it an error is that of the arithmetic


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
    seeds = [str(seed) for seed in summary.seeds]
    sections = [_table(table, place, choice, details, seeds) for place, table in enumerate(tables)]
    title = summary.title or "Which defence holds against which attack"
    main = tag(
        "main",
        tag(
            "header", tag("h1", title), tag("p", _subtitle(summary, tables, seeds), class_="quiet")
        ),
        _unfinished(summary),
        verdict_section(choice, verdicts),
        sections,
        definitions(summary.notes),
        _made_by(summary),
    )
    levels = [{"base": _mean(one.base), "oracle": _mean(one.oracle)} for one in tables]
    return document(
        title,
        [main, _panel()],
        styles=("page.css", "bench.css"),
        scripts=("copy.js", "curve.js", "bench.js"),
        data={"levels": levels, "cells": details},
    )


def _table(
    table: TableSummary,
    place: int,
    choice: str | None,
    details: list[dict[str, Any]],
    seeds: Sequence[str],
) -> Html:
    """Write one table, and add the details of its cells to those of the page."""
    indices: dict[tuple[str, str], int] = {}
    for defence in ranked(table):
        for attack in in_groups(table):
            cell = table.grid.get((defence.label, attack.label))
            indices[defence.label, attack.label] = len(details)
            details.append({"level": place, **cell_details(table, attack, defence, cell)})

    def index(attack: AttackSummary, defence: DefenceSummary) -> int:
        return indices[defence.label, attack.label]

    head = (
        f"{table.num_attackers} of {table.num_clients} clients attack "
        f"({table.percent_attackers.removesuffix(' attackers')}), f = {table.f} assumed"
    )
    return tag(
        "section",
        tag("h2", head),
        tag("p", f"Retained gain, {_seeds(seeds)}. {_losses(table)}", class_="quiet"),
        [
            tag("p", told, class_="quiet")
            for told in (floor_words(table), tuned_words(table))
            if told
        ],
        _legend() if place == 0 else None,
        matrix(table, index, choice=choice),
        honest_table(table),
        class_="table",
    )


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


def _seeds(seeds: Sequence[str]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(seeds) or 'not said'}"


def _legend() -> Html:
    keys = [tag("li", tag("span", class_=f"key g{i}"), words) for i, (_, words) in enumerate(STEPS)]
    keys.append(tag("li", tag("span", class_="key worst"), "the worst attack of its row"))
    return tag("ul", keys, class_="legend", aria_label="Colours: retained gain")


def _subtitle(summary: Summary, tables: Sequence[TableSummary], seeds: Sequence[str]) -> str:
    level = summary.level
    on = {
        "training": "real federated training",
        "vectors": "one step at a time on given updates, without the outer optimizer",
    }
    defences = {one.label for table in tables for one in table.defences}
    attacks = {one.label for table in tables for one in table.attacks}
    counts = f"{len(defences)} defences, {len(attacks)} attacks"
    return f"{counts}, {on.get(level, level)}, {_seeds(seeds)}"


def _unfinished(summary: Summary) -> Html | None:
    done, of = summary.cells.done, summary.cells.of
    if done is None or of is None or done >= of:
        return None
    words = f"{of - done} of {of} runs are not done. What they will say may change the verdict."
    return tag("p", words, class_="notice")


def _made_by(summary: Summary) -> Html:
    facts = [
        ("Machine", summary.machine),
        ("Time of all runs", duration(summary.seconds, none="")),
        (
            "Versions, of this page",
            ", ".join(f"{name} {each}" for name, each in summary.versions.items()),
        ),
        ("Base recipe", summary.base_recipe),
        ("Code", ", ".join(summary.code)),
    ]
    mixed = code_states(summary)
    return tag(
        "footer",
        tag("h2", "How to repeat it"),
        command_box(summary.command) if summary.command else None,
        tag("p", mixed, class_="notice") if mixed else None,
        facts_list([(label, text) for label, text in facts if text]),
        tag(
            "noscript", tag("p", "The details of each cell need a script; results.jsonl has them.")
        ),
    )


def _mean(stat: Stat | None) -> float | None:
    return None if stat is None else stat.mean


def _panel() -> Html:
    return tag(
        "aside",
        tag("button", "Close", type="button", id="close"),
        tag("div", id="panel-content"),
        id="panel", role="dialog", aria_labelledby="panel-title", tabindex="-1", hidden=True,
    )  # fmt: skip
