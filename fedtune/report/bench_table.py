"""A bench's summary as tables: in the terminal, and in Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from fedtune.report.code_states import code_states
from fedtune.report.pages.bench_facts import FAILS, HOLDS, STOPPED, Table, read_tables
from fedtune.report.pages.gain import gain
from fedtune.report.pages.honest import HEADS, floor_words, honest_cells, tuned_words
from fedtune.report.pages.honest import KEY as HONEST_KEY
from fedtune.report.pages.markup import line
from fedtune.report.pages.verdict import ranked
from fedtune.report.text import clean, duration, figure, number

NO_NUMBER = {"refused": "n/a", "skipped": "-", "missing": "..."}
WIDEST = 10_000  # columns of a terminal
BRIEF = (
    f"held: {HOLDS:.0%} of the gain kept, and a trigger obeyed in at most {STOPPED:.0%} more of "
    "the prompts. Every cell: in the page, or in a wider terminal"
)
KEY = (
    "retained gain, rounded down: (base - loss) / (base - oracle), 1.00 as if no liar were there, "
    "0.00 no training, below: worse than none; worst: the least of it or, of a backdoor, of 1 - "
    "its excess; n/a: the rule refuses these counts; -: no such cell at this level; ...: not run "
    "yet; stopped: the run broke off, counted as 0; diverged: its loss is no finite number, "
    "or it broke off worse than untrained; counted as worse than any; least: of all rounds and "
    "seeds, with its round; obey: answered with the attacker's text where the trigger is in the "
    "prompt; over the floor: points of that beyond what honest training on poisoned rows reaches "
    "under the plain mean, at the end or in the round of the most"
)


def print_bench(console: Console, summary: Mapping[str, Any]) -> None:
    """Print one table for each fraction of liars: every cell, if the console is wide enough."""
    for table, facts in zip(summary["tables"], read_tables(summary), strict=True):
        whole = _rich(table)
        unbound = console.options.update_width(WIDEST)
        fits = Measurement.get(console, unbound, whole).maximum <= console.width
        console.print(whole if fits else _brief(table, facts))
        console.print(_rich_honest(facts))
    for told in _foot(summary):
        console.print(Text(told, "dim"), soft_wrap=True)


def bench_markdown(summary: Mapping[str, Any]) -> str:
    """The same tables for a README: the title, the command and the machine above them."""
    parts = [f"# {_escape(summary['title'])}", f"```\n{summary['command']}\n```"]
    parts.append(f"{_escape(summary['machine'])}. {_cells(summary)}")
    for table, facts in zip(summary["tables"], read_tables(summary), strict=True):
        body = _markdown(_columns(table), [_row(table, each) for each in _sorted(table)])
        parts.append(f"## {_escape(_head(table))}\n\n{body}")
        parts.append(_markdown(HEADS, _honest(facts)))
    parts.append("\n".join(f"- {_escape(told)}" for told in _foot(summary)))
    return "\n\n".join(parts) + "\n"


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(_escape, cells))} |" for cells in lines)


def _rich(table: Mapping[str, Any]) -> RichTable:
    shown = RichTable(title=_head(table), title_justify="left")
    for position, head in enumerate(_columns(table)):
        text = Text(clean(head, limit=40))
        shown.add_column(text, justify="left" if position in (0, 2) else "right", overflow="fold")
    for defence in _sorted(table):
        styles = _styles(table, defence)
        cells = zip(_row(table, defence), styles, strict=True)
        shown.add_row(*(Text(clean(cell, limit=60), style) for cell, style in cells))
    return shown


def _honest(facts: Table) -> list[list[str]]:
    """What each defence leaves of single rounds and of honest clients, in the terminal's signs."""
    rows = [[one.label, *honest_cells(one)] for one in ranked(facts)]
    return [[cell.replace("−", "-") for cell in row] for row in rows]


def _rich_honest(facts: Table) -> RichTable:
    shown = RichTable()
    for head in HEADS:
        shown.add_column(head, overflow="fold")
    for row in _honest(facts):
        shown.add_row(*(Text(clean(cell, limit=200)) for cell in row))
    return shown


def _brief(table: Mapping[str, Any], facts: Table) -> RichTable:
    """What each defence does not hold; for screens too narrow for every cell."""
    shown = RichTable(title=_head(table), caption=BRIEF)
    shown.title_justify = shown.caption_justify = "left"
    for head in ("defence", "tax", "worst", "does not hold"):
        shown.add_column(head, justify="right" if head == "tax" else "left", overflow="fold")
    for defence in _sorted(table):
        told = [*_row(table, defence)[:3], _not_held(facts, line(defence["label"]))]
        styles = [*_styles(table, defence)[:3], ""]
        pairs = zip(told, styles, strict=True)
        shown.add_row(*(Text(clean(words, limit=400), style) for words, style in pairs))
    return shown


def _not_held(facts: Table, label: str) -> str:
    tested = [cell for (row, _), cell in facts.cells.items() if row == label and cell.tested]
    failed = [cell.attack for cell in tested if not cell.holds]
    if not failed:
        return "-" if tested else "not tested"
    return f"{len(failed)} of {len(tested)}: {', '.join(failed)}"


def _head(table: Mapping[str, Any]) -> str:
    n, liars, f = table["num_clients"], table["num_attackers"], table["f"]
    return (
        f"{liars} of {n} clients lie ({table['fraction']:.0%}); the rules assume f={f}; "
        f"base {_mean(table['base'])}, oracle {_mean(table['oracle'])}, mean of all without a "
        f"liar {_mean(table['mean_of_all'])}"
    )


def _columns(table: Mapping[str, Any]) -> list[str]:
    tuned = (" (re-optimised)" * bool(attack.get("searched")) for attack in table["attacks"])
    labels = (attack["label"] + mark for attack, mark in zip(table["attacks"], tuned, strict=True))
    return ["defence", "tax", "worst", *labels]


def _sorted(table: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Defences, the one of the best worst case first; those without one last."""

    def order(defence: Mapping[str, Any]) -> tuple[bool, float]:
        worst = defence["worst"]
        return worst is None, 0.0 if worst is None else -(_rank(worst) or 0.0)

    return sorted(table["defences"], key=order)


def _row(table: Mapping[str, Any], defence: Mapping[str, Any]) -> list[str]:
    label, worst = defence["label"], defence["worst"]
    cells = {cell["attack"]: cell for cell in table["cells"] if cell["defence"] == label}
    told = "-" if worst is None else f"{_two(_rank(worst))} {worst['attack']}"
    row = [_cell(cells[attack["label"]]) for attack in table["attacks"]]
    return [label + _own(table, defence), _percent(defence["tax"]), told, *row]


def _own(table: Mapping[str, Any], defence: Mapping[str, Any]) -> str:
    """What a row has otherwise than its table: f, and the count of seeds."""
    told = [] if defence.get("f") is None else [f"f={defence['f']}"]
    most = max(each.get("num_seeds", 1) for each in table["defences"])
    if (count := defence.get("num_seeds", 1)) < most:
        told.append(f"{count} of {most} seeds")
    return f" ({', '.join(told)})" if told else ""


def _rank(facts: Mapping[str, Any]) -> float | None:
    """What a cell, or a worst case, counts as; minus infinity where a seed diverged."""
    diverged = facts["diverged"] if "diverged" in facts else facts["seeds"]["diverged"] > 0
    return -math.inf if diverged else facts["kept"]


def _cell(cell: Mapping[str, Any]) -> str:
    if cell["status"] != "done":
        return str(NO_NUMBER.get(cell["status"], cell["status"]))
    retained, seeds = cell["retained"], cell["seeds"]
    if retained is None:
        return "?"
    told = _two(retained["mean"])
    if retained["low"] is not None:
        told += f" ±{retained['high'] - retained['mean']:.2f}"
    told += _least(cell)
    if cell["backdoor"] is not None:
        told += f", {cell['backdoor']['mean']:.0%} obey{_over_floor(cell)}"
    if below := len(cell.get("worse_than_base") or ()):
        told += f", below its base: {below} of {sum(seeds.values())}"
    for word in ("diverged", "stopped"):
        if seeds[word]:
            told += f", {seeds[word]} of {sum(seeds.values())} {word}"
    return told


def _least(cell: Mapping[str, Any]) -> str:
    """The least of all rounds and seeds, unless it reads as the mean of the ends does."""
    least = cell.get("least")
    if least is None:
        return ""
    kept = "no number" if least["kept"] is None else _two(least["kept"])
    return "" if kept == _two(cell["retained"]["mean"]) else f", least {kept} r{least['round']}"


def _over_floor(cell: Mapping[str, Any]) -> str:
    over = (cell.get("above_floor"), cell.get("most_above_floor"))
    known = [one["mean"] for one in over if one is not None]
    return f", {100 * max(known):+.0f} over the floor" if known else ""


def _foot(summary: Mapping[str, Any]) -> list[str]:
    lines = [KEY, HONEST_KEY, *summary["notes"], f"seeds {', '.join(map(str, summary['seeds']))}"]
    for facts in read_tables(summary):
        head = f"{facts.num_attackers} of {facts.num_clients}: "
        lines += [head + told for told in (floor_words(facts),) if told]
        lines += [told for told in (tuned_words(facts),) if told]
    if states := code_states(summary):
        lines.append(states)
    for table in summary["tables"]:
        lines += _reasons(table)
    return list(dict.fromkeys(lines))


def _reasons(table: Mapping[str, Any]) -> list[str]:
    """Why cells did not run or stopped; once where a whole column or row has one reason."""
    told: dict[str, None] = {}
    for defence in table["defences"]:
        if message := defence.get("tax_message"):
            told[f"{defence['label']}: {clean(message, limit=300)}"] = None
    for cell in table["cells"]:
        who = f"{cell['attack']} on {cell['defence']}"
        if cell["status"] in {"refused", "skipped"}:
            who = cell["defence"] if cell["status"] == "refused" else cell["attack"]
        if cell["message"]:
            told[f"{who}: {clean(cell['message'], limit=300)}"] = None
    return list(told)


def _cells(summary: Mapping[str, Any]) -> str:
    cells = summary["cells"]
    took = number(summary.get("seconds"))
    spent = "" if took is None else f" All runs together took {duration(took)}."
    return f"{cells['done']} of {cells['of']} cells.{spent}"


def _styles(table: Mapping[str, Any], defence: Mapping[str, Any]) -> list[str]:
    """Colours by the numbers that count: green what holds, red what fails; none for the tax."""
    cells = {cell["attack"]: cell for cell in table["cells"] if cell["defence"] == defence["label"]}
    worst = None if defence["worst"] is None else _rank(defence["worst"])
    ranks = [_rank(cells[attack["label"]]) for attack in table["attacks"]]
    return ["", "", *(_style(rank) for rank in (worst, *ranks))]


def _style(rank: float | None) -> str:
    if rank is None:
        return ""
    return "green" if round(rank, 9) >= HOLDS else "red" if rank < FAILS else ""


def _mean(stat: Mapping[str, Any] | None) -> str:
    return "-" if stat is None else figure(stat["mean"])


def _two(value: float | None) -> str:
    """As on the page, rounded down: 0.899 does not hold, nor reads as if it did."""
    return "?" if value is None else gain(value).replace("−", "-")


def _percent(stat: Mapping[str, Any] | None) -> str:
    return "-" if stat is None else f"{100 * stat['mean']:.1f} %"


def _escape(text: object) -> str:
    return clean(text, limit=400).replace("|", "\\|").replace("<", "&lt;")
