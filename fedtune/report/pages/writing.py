"""From a folder on disk to its page: a run's report.html, a bench's bench.html."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedtune.durable import put_in_place, read_whole, write_beside
from fedtune.records.told_rows import rows_by_client
from fedtune.report.pages.bench import bench_page
from fedtune.report.pages.run import run_page
from fedtune.report.summary import PAGE
from fedtune.report.text import as_typed

if TYPE_CHECKING:  # both bring torch
    from fedtune.recipe import Recipe
    from fedtune.records.folder import RunFolder

BENCH_PAGE, SUMMARY = "bench.html", "summary.json"


def write_pages(path: Path) -> list[Path]:
    """Write the page of a run's folder or of a bench's; of one of stages, a page for each begun.

    Returns:
        The pages' paths.

    Raises:
        FileNotFoundError: If neither a run nor a bench left the folder, or no stage has begun.
        ValueError: If what lies there cannot be read.
    """
    if not (path / "stages.json").is_file():
        return [write_page(path)]
    from fedtune.runs.pipeline import PipelineFolder

    _, pipeline = PipelineFolder.open(path)
    begun = [path / stage.name for stage in pipeline.stages if (path / stage.name).is_dir()]
    if not begun:
        raise FileNotFoundError(f"a report needs a stage that has begun: got none in {path}")
    return [write_page(folder) for folder in begun]


def write_page(path: Path) -> Path:
    """Write the page of a run's folder or of a bench's, whichever it is.

    Returns:
        The page's path.

    Raises:
        FileNotFoundError: If neither a run nor a bench left the folder.
        ValueError: If what lies there cannot be read.
    """
    if (path / SUMMARY).is_file():
        return write_bench_page(path)
    if not (path / "recipe.yaml").is_file():
        raise FileNotFoundError(
            f"a report needs the folder of a run (recipe.yaml) or of a bench ({SUMMARY}): "
            f"got {path}, {'which has neither' if path.is_dir() else 'which is no folder'}"
        )
    from fedtune.records.folder import RunFolder

    folder, recipe = RunFolder.open(path)
    return write_run_page(recipe, folder)


def write_run_page(recipe: Recipe, folder: RunFolder) -> Path:
    """Write ``report.html`` into a run's folder, as far as the run got.

    Raises:
        ValueError: If samples.jsonl is broken.
    """
    manifest = folder.read_manifest()
    page = run_page(
        recipe,
        folder.read_records(),
        manifest,
        read_samples(folder.path / "samples.jsonl"),
        rows=rows_by_client(folder.path, manifest),
        recipe_text=read_whole(folder.recipe) if folder.recipe.is_file() else "",
        command=f"fedtune run {shlex.quote(as_typed(folder.recipe))}",
    )
    return write_text(folder.path / PAGE, page)


def write_bench_page(path: Path) -> Path:
    """Write ``bench.html`` into a bench's folder, from its summary.json.

    Raises:
        ValueError: If the summary is broken, or not one of a bench.
    """
    source = path / SUMMARY
    try:
        summary = json.loads(read_whole(source))
    except ValueError as error:
        raise ValueError(
            f"{source} needs to be JSON: {error}; write it anew with fedtune bench"
        ) from None
    return write_text(path / BENCH_PAGE, bench_page(summary))


def read_samples(path: Path) -> list[dict[str, Any]]:
    """Read samples.jsonl; none where the run made none.

    Raises:
        ValueError: If a line is not JSON.
    """
    if not path.is_file():
        return []
    found = []
    for number, text in enumerate(read_whole(path).split("\n"), start=1):
        if text:
            try:
                found.append(json.loads(text))
            except ValueError as error:
                raise ValueError(f"line {number} of {path} needs to be JSON: {error}") from None
    return found


def write_text(path: Path, page: str) -> Path:
    """Write a file whole, through no link that lies there; its path."""
    put_in_place(write_beside(path, page), path)
    return path
