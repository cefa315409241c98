"""A bench's summary as tables: in the terminal, and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from fedtune.records.bench_figures import Stat
from fedtune.records.bench_summary import (
    FAILS,
    HOLDS,
    STOPPED,
    CellSummary,
    DefenceSummary,
    Summary,
    TableSummary,
)
from fedtune.report.code_states import code_states
from fedtune.report.pages.gain import gain
from fedtune.report.pages.honest import HEADS, floor_words, honest_cells, tuned_words
from fedtune.report.pages.honest import KEY as HONEST_KEY
from fedtune.report.pages.verdict import ranked, row_of
from fedtune.report.text import clean, duration, figure

NO_NUMBER: dict[str, str] = {"refused": "n/a", "skipped": "-", "missing": "..."}
WIDEST = 10_000  # columns of a terminal
BRIEF = (
    f"held: {HOLDS:.0%} of the gain kept, and a trigger obeyed in at most {STOPPED:.0%} more of "
    "the prompts. Every cell: in the page, or in a wider terminal"
)
KEY = (
    "retained gain, rounded down: (base - loss) / (base - oracle), 1.00 as with no attacker, "
    "0.00 no training, below: worse than none; worst: the least of it or, of a backdoor, of 1 - "
    "its excess; n/a: the rule refuses these counts; -: no such cell at this level; ...: not run "
    "yet; stopped: the run broke off, counted as 0; diverged: its loss is no finite number, "
    "or it broke off worse than untrained; counted as worse than any; least: of all rounds and "
    "seeds, with its round; obey: backdoor success, prompts with the trigger that are answered "
    "with the attacker's text; over the floor: points of that beyond what honest training on "
    "poisoned rows reaches under the plain mean, at the end or in the round of the most"
)


def print_bench(console: Console, summary: Summary) -> None:
    """Print one table for each fraction of attackers: every cell, if the console is wide enough."""
    for table in summary.tables:
        whole = _rich(table)
        unbound = console.options.update_width(WIDEST)
        fits = Measurement.get(console, unbound, whole).maximum <= console.width
        console.print(whole if fits else _brief(table))
        console.print(_rich_honest(table))
    for told in _foot(summary):
        console.print(Text(told, "dim"), soft_wrap=True)


def bench_markdown(summary: Summary) -> str:
    """The same tables for a README: the title, the command and the machine above them."""
    parts = [f"# {_escape(summary.title)}", f"```\n{summary.command}\n```"]
    parts.append(f"{_escape(summary.machine)}. {_cells(summary)}")
    for table in summary.tables:
        body = _markdown(_columns(table), [_row(table, each) for each in ranked(table)])
        parts.append(f"## {_escape(_head(table))}\n\n{body}")
        parts.append(_markdown(HEADS, _honest(table)))
    parts.append("\n".join(f"- {_escape(told)}" for told in _foot(summary)))
    return "\n\n".join(parts) + "\n"


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(_escape, cells))} |" for cells in lines)


def _rich(table: TableSummary) -> RichTable:
    shown = RichTable(title=_head(table), title_justify="left")
    for position, head in enumerate(_columns(table)):
        text = Text(clean(head, limit=40))
        shown.add_column(text, justify="left" if position in (0, 2) else "right", overflow="fold")
    for defence in ranked(table):
        styles = _styles(table, defence)
        cells = zip(_row(table, defence), styles, strict=True)
        shown.add_row(*(Text(clean(cell, limit=60), style) for cell, style in cells))
    return shown


def _honest(table: TableSummary) -> list[list[str]]:
    """What each defence leaves of single rounds and of honest clients, in the terminal's signs."""
    rows = [[one.label, *honest_cells(one)] for one in ranked(table)]
    return [[cell.replace("−", "-") for cell in row] for row in rows]


def _rich_honest(table: TableSummary) -> RichTable:
    shown = RichTable()
    for head in HEADS:
        shown.add_column(head, overflow="fold")
    for row in _honest(table):
        shown.add_row(*(Text(clean(cell, limit=200)) for cell in row))
    return shown


def _brief(table: TableSummary) -> RichTable:
    """What each defence does not hold; for screens too narrow for every cell."""
    shown = RichTable(title=_head(table), caption=BRIEF)
    shown.title_justify = shown.caption_justify = "left"
    for head in ("defence", "tax", "worst", "does not hold"):
        shown.add_column(head, justify="right" if head == "tax" else "left", overflow="fold")
    for defence in ranked(table):
        told = [*_row(table, defence)[:3], _not_held(table, defence.label)]
        styles = [*_styles(table, defence)[:3], ""]
        pairs = zip(told, styles, strict=True)
        shown.add_row(*(Text(clean(words, limit=400), style) for words, style in pairs))
    return shown


def _not_held(table: TableSummary, label: str) -> str:
    tested = [cell for cell in row_of(table, label) if cell.tested]
    failed = [cell.attack for cell in tested if not cell.holds]
    if not failed:
        return "-" if tested else "not tested"
    return f"{len(failed)} of {len(tested)}: {', '.join(failed)}"


def _head(table: TableSummary) -> str:
    n, attackers, f = table.num_clients, table.num_attackers, table.f
    return (
        f"{attackers} of {n} clients attack ({table.fraction:.0%}); the rules assume f={f}; "
        f"base {_mean(table.base)}, oracle {_mean(table.oracle)}, mean of all with no "
        f"attacker {_mean(table.mean_of_all)}"
    )


def _columns(table: TableSummary) -> list[str]:
    labels = (one.label + " (re-optimised)" * bool(one.searched) for one in table.attacks)
    return ["defence", "tax", "worst", *labels]


def _row(table: TableSummary, defence: DefenceSummary) -> list[str]:
    worst = defence.worst
    told = "-" if worst is None else f"{_two(worst.rank)} {worst.attack}"
    cells = [_cell(table.grid[defence.label, attack.label]) for attack in table.attacks]
    return [defence.label + _own(table, defence), _percent(defence.tax), told, *cells]


def _own(table: TableSummary, defence: DefenceSummary) -> str:
    """What a row has otherwise than its table: f, and the count of seeds."""
    told = [] if defence.f is None else [f"f={defence.f}"]
    most = max(each.num_seeds for each in table.defences)
    if defence.num_seeds < most:
        told.append(f"{defence.num_seeds} of {most} seeds")
    return f" ({', '.join(told)})" if told else ""


def _cell(cell: CellSummary) -> str:
    if cell.status != "done":
        return NO_NUMBER.get(cell.status, cell.status)
    if (retained := cell.retained) is None:
        return "?"
    told = _two(retained.mean)
    if retained.high is not None:
        told += f" ±{retained.high - retained.mean:.2f}"
    told += _least(cell, _two(retained.mean))
    if cell.backdoor is not None:
        over = "" if cell.over_floor is None else f", {100 * cell.over_floor:+.0f} over the floor"
        told += f", {cell.backdoor.mean:.0%} obey{over}"
    if below := len(cell.worse_than_base):
        told += f", below its base: {below} of {cell.of}"
    return f"{told}, {cell.broken}" if cell.broken else told


def _least(cell: CellSummary, mean: str) -> str:
    """The least of all rounds and seeds, unless it reads as the mean of the ends does."""
    if cell.least is None:
        return ""
    kept = "no number" if cell.least.kept is None else _two(cell.least.kept)
    return "" if kept == mean else f", least {kept} r{cell.least.round}"


def _foot(summary: Summary) -> list[str]:
    lines = [KEY, HONEST_KEY, *summary.notes, f"seeds {', '.join(map(str, summary.seeds))}"]
    for table in summary.tables:
        head = f"{table.num_attackers} of {table.num_clients}: "
        lines += [head + told for told in (floor_words(table),) if told]
        lines += [told for told in (tuned_words(table),) if told]
    if states := code_states(summary):
        lines.append(states)
    for table in summary.tables:
        lines += _reasons(table)
    return list(dict.fromkeys(lines))


def _reasons(table: TableSummary) -> list[str]:
    """Why cells did not run or stopped; once where a whole column or row has one reason."""
    told = [f"{one.label}: {one.tax_message}" for one in table.defences if one.tax_message]
    for cell in table.cells:
        whole = {"refused": cell.defence, "skipped": cell.attack}
        name = whole.get(cell.status, f"{cell.attack} on {cell.defence}")
        told += [f"{name}: {cell.message}"] if cell.message else []
    return [clean(line, limit=400) for line in dict.fromkeys(told)]


def _cells(summary: Summary) -> str:
    cells, took = summary.cells, summary.seconds
    spent = "" if took is None else f" All runs together took {duration(took)}."
    return f"{cells.done} of {cells.of} cells.{spent}"


def _styles(table: TableSummary, defence: DefenceSummary) -> list[str]:
    """Colours by the numbers that count: green what holds, red what fails; none for the tax."""
    ranks = [table.grid[defence.label, attack.label].rank for attack in table.attacks]
    return ["", "", *(_style(rank) for rank in (defence.rank, *ranks))]


def _style(rank: float | None) -> str:
    if rank is None:
        return ""
    return "green" if round(rank, 9) >= HOLDS else "red" if rank < FAILS else ""


def _mean(stat: Stat | None) -> str:
    return "-" if stat is None else figure(stat.mean)


def _two(value: float | None) -> str:
    """As on the page, rounded down: 0.899 does not hold, nor reads as if it did."""
    return "?" if value is None else gain(value).replace("−", "-")


def _percent(stat: Stat | None) -> str:
    return "-" if stat is None else f"{100 * stat.mean:.1f} %"


def _escape(text: object) -> str:
    return clean(text, limit=400).replace("|", "\\|").replace("<", "&lt;")
