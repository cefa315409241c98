"""The ServerApp that a SuperLink starts: it finds the run's folder, and runs what is left of it.

In Flower's run-config stands ``recipe``, a shipped recipe's name or a file, with ``overrides`` as
on fedtune's command line; or ``folder``, a word for a run folder that `fedtune run` made, which
goes before.
"""

from __future__ import annotations

import shlex

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedtune.recipe import Recipe, RecipeError, load_recipe
from fedtune.records.event_log import EventLog
from fedtune.records.events import RunStoppedError
from fedtune.records.folder import RunFolder
from fedtune.runs.loop import Run
from fedtune.transport.flower.grid import CarefulGrid
from fedtune.transport.flower.whereabouts import found

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run a recipe from its newest checkpoint, or from the start."""
    folder, recipe = find_run(context)
    with folder.locked(), EventLog(folder.path) as log:
        try:
            Run(recipe, folder, log.note).serve(_carefully(grid, recipe))
        except (RunStoppedError, OSError, MemoryError, ValueError) as error:
            log.stopped(error)
            raise
        log.ended()


def find_run(context: Context) -> tuple[RunFolder, Recipe]:
    """The folder and recipe that the run-config names.

    Raises:
        FileNotFoundError: If the folder holds no run.
        RecipeError: If the recipe is wrong.
    """
    config = {key: str(value) for key, value in context.run_config.items()}
    if folder := config.get("folder"):
        return RunFolder.open(found(folder))
    overrides = shlex.split(config.get("overrides", ""))
    named = any(each.startswith("federation.deployment=") for each in overrides)
    # Without a deployment's keys a node is believed about its number, as on Flower's simulation.
    engine = f"federation.engine={'superlink' if named else 'ray'}"
    recipe = load_recipe(config.get("recipe", ""), [engine, *overrides])
    from fedtune.runs.checks.preflight import find_problems

    if problems := find_problems(recipe):
        raise RecipeError(problems)
    return RunFolder.create(recipe)


def _carefully(grid: Grid, recipe: Recipe) -> Grid:
    return grid if recipe.federation.deployment is None else CarefulGrid(grid)
