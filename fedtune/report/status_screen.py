"""Where a run stands, on a terminal or in a pipe."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedtune.report.status_clients import HEADS, LEGEND
from fedtune.report.status_words import View
from fedtune.report.text import clean, marks_for, sparkline

STYLES = {"running": "bold green", "finished": "bold", "stopped": "bold red", "unknown": "yellow"}
MARKS = {"waiting": "dim", "replied": "green", "refused": "bold red"}
STAGE_STYLES = {"running": "green", "stopped": "red", "to do": "dim"}


def print_status(console: Console, view: View) -> None:
    """Print a status; every word is printed as it stands, whatever markup is in it."""
    state = Text(view.state, STYLES.get(view.state, ""))
    console.print(Text.assemble((_line(console, view.name), "bold"), "  ", state), soft_wrap=True)
    if view.rule:
        console.print(Text(_line(console, view.rule), "dim"), soft_wrap=True)
    console.print(Text(_line(console, view.say)), soft_wrap=True)
    if view.why:
        console.print(Text(_line(console, view.why, 1000), "red"), soft_wrap=True)
    for told in view.silenced:
        console.print(Text(_line(console, told, 1000), "yellow"), soft_wrap=True)
    for command in view.commands:
        console.print(Text.assemble("  ", (_line(console, command, 4096), "bold")), soft_wrap=True)
    if view.stages:
        console.print(_stages(console, view))
    if view.facts:
        console.print()
        console.print(_facts(console, view))
    if view.clients:
        console.print(_clients(view))
        note = f"; {view.left_out} more are in metrics.jsonl" if view.left_out else ""
        console.print(Text(f"{LEGEND}{note}", "dim"))
    if view.refusals:
        console.print()
        for who, when, reason in view.refusals:
            told = ", ".join(part for part in (who, when) if part)
            line = f"{told}: {reason}" if told else reason
            console.print(Text(_line(console, line, 600), "red"), soft_wrap=True)


def _line(console: Console, words: str, limit: int = 400) -> str:
    return clean(words, limit=limit, encoding=console.encoding)


def _facts(console: Console, view: View) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    drawn = sparkline([loss for _, loss in view.curve], marks=marks_for(console))
    curve = (f"  {drawn}" if len(view.curve) > 1 else "", "cyan")
    if view.curve_title not in dict(view.facts) and curve[0]:
        grid.add_row(view.curve_title, Text(drawn, "cyan"))
    for label, text in view.facts:
        beside = curve if label == view.curve_title else ""
        grid.add_row(Text(_line(console, label)), Text.assemble(_line(console, text), beside))
    return grid


def _stages(console: Console, view: View) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("stage", "task", "state", "rounds", "held out"):
        table.add_column(heading, overflow="fold")
    for row in view.stages:
        cells = [Text(_line(console, cell)) for cell in row]
        cells[2].stylize(STAGE_STYLES.get(row[2], ""))
        table.add_row(*cells)
    return table


def _clients(view: View) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in HEADS:
        table.add_column(heading, justify="right", overflow="fold")
    for row in view.clients:
        cells = [Text(cell) for cell in row.cells]
        cells[1].stylize(MARKS.get(row.mark, ""))
        table.add_row(*cells)
    return table
