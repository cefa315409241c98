"""What is shown when a run ends: the picture, the table, the samples, and what to do next."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from fedtune.federation.folder import RunFolder
from fedtune.recipe import Recipe
from fedtune.report.summary import PICTURE, describe
from fedtune.report.table import print_summary, read_manifest


def print_run(console: Console, recipe: Recipe, folder: RunFolder) -> None:
    """Draw ``curves.png`` into the run's folder and print its summary."""
    from fedtune.report.curves import draw_curves

    records = folder.read_metrics()
    manifest = read_manifest(folder.manifest)
    draw_curves(
        records,
        folder.path / PICTURE,
        attackers=manifest.get("simulated_attackers", ()),
        title=describe(recipe),
    )
    print_summary(console, recipe, records, _read_lines(folder.path / "samples.jsonl"), folder)


def _read_lines(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
