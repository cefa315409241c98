"""What is shown when a run ends: the picture, the table, the samples, and what to do next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from fedtune.federation.folder import RunFolder
from fedtune.recipe import Recipe
from fedtune.report.table import print_summary


def print_run(console: Console, recipe: Recipe, folder: RunFolder) -> None:
    """Draw ``curves.png`` into the run's folder and print its summary."""
    from fedtune.report.curves import draw_curves

    records = folder.read_metrics()
    manifest = _read_json(folder.manifest)
    draw_curves(
        records,
        folder.path / "curves.png",
        attackers=manifest.get("simulated_attackers", ()),
        title=describe(recipe),
    )
    print_summary(console, recipe, records, _read_lines(folder.path / "samples.jsonl"), folder)


def describe(recipe: Recipe) -> str:
    """A recipe in one line: rule, mixing, f, outer optimizer, attack."""
    rule = " + ".join([*recipe.aggregator.mixing, recipe.aggregator.name])
    parts = [f"{rule}, f={recipe.aggregator.f}", recipe.outer.name]
    if recipe.attack:
        options = ", ".join(f"{key} {value:g}" for key, value in _numbers(recipe.attack.options))
        liars = f"{recipe.attack.num_attackers} of {recipe.federation.num_clients}"
        parts.append(f"{liars} lie: {recipe.attack.name}" + f" ({options})" * bool(options))
    return " · ".join(parts)


def _numbers(options: dict[str, Any]) -> list[tuple[str, float]]:
    return [(key, value) for key, value in options.items() if isinstance(value, int | float)]


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return facts


def _read_lines(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
