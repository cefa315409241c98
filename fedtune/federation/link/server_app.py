"""The ServerApp that a SuperLink starts: it finds the run's folder, and runs what is left of it.

In Flower's run-config stands either ``folder``, a run folder that `fedtune run` made, or
``recipe``, a shipped recipe's name or a file, with ``overrides`` as on fedtune's command line.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedtune.federation.events import RunStoppedError
from fedtune.federation.folder import RunFolder
from fedtune.federation.link.event_log import EventLog
from fedtune.federation.link.grid import CarefulGrid
from fedtune.federation.server import Run
from fedtune.recipe import Recipe, RecipeError, load_recipe

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run a recipe from its newest checkpoint, or from the start."""
    folder, recipe = find_run(context)
    with folder.locked(), EventLog(folder.path) as log:
        try:
            Run(recipe, folder, log.note).serve(CarefulGrid(grid))
        except (RunStoppedError, OSError, MemoryError, ValueError) as error:
            log.stopped(error)
            raise
        log.ended()


def find_run(context: Context) -> tuple[RunFolder, Recipe]:
    """The folder and recipe that the run-config names.

    Raises:
        ValueError: If it names neither, or both.
        FileNotFoundError: If the folder holds no run.
    """
    config = {key: str(value) for key, value in context.run_config.items() if value != ""}
    if ("folder" in config) == ("recipe" in config):
        raise ValueError(f"run-config needs recipe, or folder; got {', '.join(config) or 'none'}")
    if "folder" in config:
        return RunFolder.open(Path(config["folder"]))
    overrides = shlex.split(config.get("overrides", ""))
    recipe = load_recipe(config["recipe"], ["federation.engine=superlink", *overrides])
    from fedtune.federation.checks.preflight import find_problems

    if problems := find_problems(recipe):
        raise RecipeError(problems)
    return RunFolder.create(recipe)
