"""What is shown when a run, or the last of its stages, ends: pictures, figures, what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedtune.recipe import Recipe
from fedtune.recipe.stages import Pipeline, Stage
from fedtune.records.folder import RunFolder
from fedtune.report.figures import STANDING, shown
from fedtune.report.summary import PICTURE, RunFacts, describe, summarise
from fedtune.report.table import print_summary
from fedtune.report.text import as_typed, duration


def print_run(console: Console, recipe: Recipe, folder: RunFolder) -> None:
    """Draw ``curves.svg`` and write ``report.html`` into the run's folder; print its summary."""
    from fedtune.report.pages.writing import read_samples

    draw_run(recipe, folder)
    samples = read_samples(folder.path / "samples.jsonl")
    print_summary(console, recipe, folder.read_records(), samples, folder)


def draw_run(recipe: Recipe, folder: RunFolder) -> None:
    """Draw ``curves.svg`` and write ``report.html`` into the run's folder."""
    from fedtune.report.pages.picture import draw_run as drawn
    from fedtune.report.pages.writing import write_run_page, write_text

    attackers = folder.read_manifest().simulated_attackers
    picture = drawn(folder.read_records(), attackers=attackers, title=describe(recipe))
    write_text(folder.path / PICTURE, picture)
    write_run_page(recipe, folder)


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
        facts = summarise(folder.read_records())
        head = (stage.name, stage.recipe.task, _start(stage))
        tail = (str(facts.rounds), duration(facts.round_s))
        for number, cells in enumerate(_figures(facts)):
            outer = (head, tail) if number == 0 else (("",) * len(head), ("",) * len(tail))
            table.add_row(*outer[0], *cells, *outer[1])
    console.print()
    console.print(table)
    last = shlex.quote(as_typed(folders[-1].path))
    console.print(Text(f" adapter   {as_typed(folders[-1].adapter)}"), soft_wrap=True)
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
        if key in STANDING
    ]
    return found or [("nothing yet", "-", "-")]
