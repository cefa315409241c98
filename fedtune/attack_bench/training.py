"""A cell of level training: a real federated run in a folder of its own."""

from __future__ import annotations

import gc
from pathlib import Path
from shutil import rmtree

from fedtune.attack_bench.measured import NOT_FINITE, measured
from fedtune.recipe import Recipe
from fedtune.recipe.source import with_absolute_paths
from fedtune.records.bench_result import Outcome
from fedtune.records.events import RunStoppedError
from fedtune.records.folder import RunFolder
from fedtune.runs.engines import execute
from fedtune.simulation.adversary import byzantine_clients
from fedtune.training import memo

# What a finished cell has no more use for: all but recipe, manifest and metrics.
SPENT = ("checkpoints", "adapter", "replies", "clients")


def train_cell(recipe: Recipe, path: Path, *, remembered: Path) -> Outcome:
    """Run a cell to its end, from its last checkpoint if an earlier try has left one.

    Args:
        recipe: The cell's.
        path: Its run folder; only recipe, manifest and metrics stay there.
        remembered: Where cells share the client-rounds that they have in common.

    Returns:
        What ``measured`` says of it. Of a run that cannot go on from a model that is worse than
        none by then, ``loss`` None and why in ``message``: it has diverged, for what stops it is
        as a rule that no honest client's training gives finite numbers any more.

    Raises:
        RunStoppedError: If the run cannot go on: it is what this attack does to this defence.
    """
    try:
        try:
            folder = _run(_go_on(recipe, path) or _begin(recipe, path), remembered)
        except RunStoppedError as error:
            if error.resumable:
                raise
            folder = _run(_begin(recipe, path), remembered)  # its inputs have changed: none counts
    except RunStoppedError as error:
        _sweep(path)
        if (told := _ruined(recipe, path)) is None:
            raise
        return told.model_copy(update={"message": f"{error}; {told.message}"})
    _sweep(path)
    told = measured(folder.read_records(), byzantine_clients(recipe))
    return told.model_copy(update={"client_names": folder.read_manifest().client_names})


def _begin(recipe: Recipe, path: Path) -> RunFolder:
    rmtree(path, ignore_errors=True)
    folder, _ = RunFolder.create(recipe.model_copy(update={"output_dir": path}))
    return folder


def _go_on(recipe: Recipe, path: Path) -> RunFolder | None:
    """The folder of an earlier try, if it was of this recipe and left something to go on from."""
    try:
        folder, found = RunFolder.open(path)
    except (OSError, ValueError):
        return None
    wanted = with_absolute_paths(recipe)
    same = found.model_copy(update={"output_dir": recipe.output_dir}) == wanted
    return folder if same and any(folder.checkpoints.glob("round-*")) else None


def _run(folder: RunFolder, remembered: Path) -> RunFolder:
    folder, recipe = RunFolder.open(folder.path)  # it stays, whatever happens in it
    with memo.remembering(remembered):
        execute(recipe, folder)
    return folder


def _ruined(recipe: Recipe, path: Path) -> Outcome | None:
    """The figures of a run whose last loss is above its base's, or no number; else None."""
    records = RunFolder.open(path)[0].read_records()
    if not any(record.eval is not None for record in records):
        return None
    told = measured(records, byzantine_clients(recipe))
    base, loss = told.base, told.loss
    if loss is not None and base is not None and loss <= base:
        return None
    was = NOT_FINITE if loss is None else f"its last loss was {loss:.4g}, the base's {base:.4g}"
    return told.model_copy(update={"loss": None, "message": was})


def _sweep(path: Path) -> None:
    for name in SPENT:
        rmtree(path / name, ignore_errors=True)
    # What a worker freezes when it is made may be garbage by now; the imports never are.
    gc.unfreeze()
    gc.collect()
    gc.freeze()
