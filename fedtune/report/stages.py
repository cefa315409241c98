"""What is printed when stages end: a line for each, and where the last adapter lies."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedtune.report.figures import shown
from fedtune.report.summary import RunFacts, summarise
from fedtune.report.text import duration

if TYPE_CHECKING:  # both bring torch
    from fedtune.recipe.stages import Pipeline, Stage
    from fedtune.records.folder import RunFolder

# The figures of a stage that stand for it; of several names the task's own.
FIGURES = ("reward", "loss", "accuracy", "rewards/accuracies")


def print_stages(console: Console, pipeline: Pipeline, folders: Sequence[RunFolder]) -> None:
    """Print a line per stage with its figures before and after, and what to do next.

    Args:
        console: Where to.
        pipeline: The stages.
        folders: Theirs, in the same order.
    """
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("stage", "task", "from", "held out"):
        table.add_column(heading, overflow="fold")
    for heading in ("before", "after", "rounds", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    for stage, folder in zip(pipeline.stages, folders, strict=True):
        facts = summarise(folder.read_metrics())
        head = (stage.name, stage.recipe.task, _start(stage))
        tail = (str(facts.rounds), duration(facts.round_s))
        for number, cells in enumerate(_figures(facts)):
            outer = (head, tail) if number == 0 else (("",) * len(head), ("",) * len(tail))
            table.add_row(*outer[0], *cells, *outer[1])
    console.print()
    console.print(table)
    last = shlex.quote(_short(folders[-1].path))
    console.print(Text(f" adapter   {_short(folders[-1].adapter)}"), soft_wrap=True)
    console.print(Text(" next      ").append(f"fedtune evaluate {last}", "bold"), soft_wrap=True)
    step = f"fedtune merge {last} merged-model"
    console.print(Text("           ").append(step, "bold"), soft_wrap=True)


def _start(stage: Stage) -> str:
    if stage.origin is None:
        return stage.recipe.initial_adapter or "base"
    return f"{stage.origin}, merged" if stage.start == "merge" else stage.origin


def _figures(facts: RunFacts) -> list[tuple[str, str, str]]:
    """(label, before, after) of the figures that stand for the task; a line at least."""
    found = [
        (label, write(facts.base.get(key)), write(facts.final.get(key)))
        for label, key, write in shown(facts.final)
        if key in FIGURES
    ]
    return found or [("nothing yet", "-", "-")]


def _short(path: Path) -> str:
    """The path as one would type it from here."""
    here = Path(os.path.abspath(os.curdir))
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
