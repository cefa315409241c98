"""The page of a bench: which defence to use, where none holds, and every cell behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedtune.report.code_states import code_states
from fedtune.report.pages.bench_facts import (
    AttackFacts,
    DefenceFacts,
    Table,
    read_tables,
)
from fedtune.report.pages.definitions import definitions
from fedtune.report.pages.details import cell_details
from fedtune.report.pages.gain import STEPS
from fedtune.report.pages.honest import floor_words, honest_table, tuned_words
from fedtune.report.pages.markup import Html, line, tag
from fedtune.report.pages.matrix import in_groups, matrix
from fedtune.report.pages.shell import command_box, document, facts_list
from fedtune.report.pages.verdict import choose, judge, ranked
from fedtune.report.pages.verdict_words import verdict_section
from fedtune.report.text import duration, figure, number

ROUNDING = 1e-9  # below it an error is that of the arithmetic


def bench_page(summary: Mapping[str, Any]) -> str:
    """Write a bench's summary as one self-contained page.

    Args:
        summary: What `fedtune bench` writes as summary.json: ``tables``, one per fraction of
            liars, and what made them. Labels and messages are taken for strangers' words.

    Returns:
        The HTML document. It needs no network, and no script to be read.

    Raises:
        ValueError: If the summary is not one that `fedtune bench` writes.
    """
    tables = read_tables(summary)
    choice = choose(tables)
    verdicts = [] if choice is None else [judge(table, choice) for table in tables]
    details: list[dict[str, Any]] = []
    seeds = [line(seed) for seed in summary.get("seeds") or ()]
    sections = [_table(table, place, choice, details, seeds) for place, table in enumerate(tables)]
    title = line(summary.get("title") or "Which defence holds against which attack")
    main = tag(
        "main",
        tag(
            "header", tag("h1", title), tag("p", _subtitle(summary, tables, seeds), class_="quiet")
        ),
        _unfinished(summary),
        verdict_section(choice, verdicts),
        sections,
        definitions([line(note, 1000) for note in summary.get("notes") or ()]),
        _made_by(summary),
    )
    levels = [{"base": table.base, "oracle": table.oracle} for table in tables]
    return document(
        title,
        [main, _panel()],
        styles=("page.css", "bench.css"),
        scripts=("copy.js", "curve.js", "bench.js"),
        data={"levels": levels, "cells": details},
    )


def _table(
    table: Table,
    place: int,
    choice: str | None,
    details: list[dict[str, Any]],
    seeds: Sequence[str],
) -> Html:
    """Write one table, and add the details of its cells to those of the page."""
    indices: dict[tuple[str, str], int] = {}
    for defence in ranked(table):
        for attack in in_groups(table):
            cell = table.cells.get((defence.label, attack.label))
            indices[defence.label, attack.label] = len(details)
            details.append({"level": place, **cell_details(table, attack, defence, cell)})

    def index(attack: AttackFacts, defence: DefenceFacts) -> int:
        return indices[defence.label, attack.label]

    head = (
        f"{table.num_attackers} of {table.num_clients} clients lie "
        f"({table.percent_liars.removesuffix(' liars')}), f = {table.f} assumed"
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


def _losses(table: Table) -> str:
    known = (
        ("untrained base", table.base),
        ("honest clients alone", table.oracle),
        ("mean of all with no liar", table.mean_of_all),
    )
    words = ", ".join(f"{name} {_loss(value)}" for name, value in known if value is not None)
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


def _subtitle(summary: Mapping[str, Any], tables: Sequence[Table], seeds: Sequence[str]) -> str:
    level = line(summary.get("level"))
    on = {
        "training": "real federated training",
        "vectors": "one step at a time on given updates, without the outer optimizer",
    }
    defences = {one.label for table in tables for one in table.defences}
    attacks = {one.label for table in tables for one in table.attacks}
    counts = f"{len(defences)} defences, {len(attacks)} attacks"
    return f"{counts}, {on.get(level, level)}, {_seeds(seeds)}"


def _unfinished(summary: Mapping[str, Any]) -> Html | None:
    cells = summary.get("cells") or {}
    done, of = number(cells.get("done")), number(cells.get("of"))
    if done is None or of is None or done >= of:
        return None
    words = (
        f"{of - done:.0f} of {of:.0f} runs are not done. What they will say may change the verdict."
    )
    return tag("p", words, class_="notice")


def _made_by(summary: Mapping[str, Any]) -> Html:
    versions = summary.get("versions") or {}
    code = summary.get("code") or ()
    codes = [code] if isinstance(code, str) else list(code)
    facts = [
        ("Machine", _flat(summary.get("machine"))),
        ("Time of all runs", duration(number(summary.get("seconds")), none="")),
        ("Versions, of this page", _flat(versions)),
        ("Base recipe", _flat(summary.get("base_recipe"))),
        ("Code", ", ".join(line(one) for one in codes)),
    ]
    mixed = code_states(summary)
    command = summary.get("command")
    return tag(
        "footer",
        tag("h2", "How to repeat it"),
        command_box(str(command)) if command else None,
        tag("p", mixed, class_="notice") if mixed else None,
        facts_list([(label, text) for label, text in facts if text]),
        tag(
            "noscript", tag("p", "The details of each cell need a script; results.jsonl has them.")
        ),
    )


def _flat(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{line(key, 60)} {_flat(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_flat(one) for one in value)
    return "" if value is None else line(value, 2000)


def _panel() -> Html:
    return tag(
        "aside",
        tag("button", "Close", type="button", id="close"),
        tag("div", id="panel-content"),
        id="panel", role="dialog", aria_labelledby="panel-title", tabindex="-1", hidden=True,
    )  # fmt: skip
