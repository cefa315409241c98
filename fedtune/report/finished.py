"""What is shown when a run ends: the picture, the page, the table, the samples, what to do next."""

from __future__ import annotations

from rich.console import Console

from fedtune.recipe import Recipe
from fedtune.records.folder import RunFolder
from fedtune.report.summary import PICTURE, describe
from fedtune.report.table import print_summary, read_manifest


def print_run(console: Console, recipe: Recipe, folder: RunFolder) -> None:
    """Draw ``curves.png`` and write ``report.html`` into the run's folder; print its summary."""
    from fedtune.report.pages.folder import read_samples

    draw_run(recipe, folder)
    samples = read_samples(folder.path / "samples.jsonl")
    print_summary(console, recipe, folder.read_metrics(), samples, folder)


def draw_run(recipe: Recipe, folder: RunFolder) -> None:
    """Draw ``curves.png`` and write ``report.html`` into the run's folder."""
    from fedtune.report.curves import draw_curves
    from fedtune.report.pages.folder import write_run_page

    manifest = read_manifest(folder.manifest)
    draw_curves(
        folder.read_metrics(),
        folder.path / PICTURE,
        attackers=manifest.get("simulated_attackers", ()),
        title=describe(recipe),
    )
    write_run_page(recipe, folder)
