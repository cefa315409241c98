"""The two apps of a run over Flower's network: what a SuperLink starts, and what a client runs.

In Flower's run-config stands ``recipe``, a shipped recipe's name or a file, with ``overrides`` as
on fedtune's command line; or ``folder``, a word for a run folder that `fedtune run` made, which
goes before.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping

from fedtune.durable import refuse_links
from fedtune.node.node_app import SOCKET
from fedtune.node.node_app import app as node_app
from fedtune.recipe import Recipe, RecipeError, load_recipe
from fedtune.records.failures import Failures
from fedtune.records.folder import RunFolder
from fedtune.runs.loop import Run
from fedtune.simulation import client
from fedtune.transport.flower.client_app import client_app
from fedtune.transport.flower.server_app import Carry, server_app
from fedtune.transport.flower.whereabouts import found


def serve(carry: Carry, config: Mapping[str, str]) -> None:
    """Run a recipe from its newest checkpoint, or from the start."""
    folder, recipe = find_run(config)
    refuse_links(folder.path)
    with folder.locked():
        Failures(folder.path).forget()
        Run(recipe, folder).serve(carry(recipe.federation.deployment is not None))


def find_run(config: Mapping[str, str]) -> tuple[RunFolder, Recipe]:
    """The folder and recipe that the run-config names.

    Raises:
        FileNotFoundError: If the folder holds no run.
        RecipeError: If the recipe is wrong.
    """
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


server = server_app(serve)
# On a SuperNode that Flower's own command started, and in its simulation, there is no worker.
clients = node_app if SOCKET in os.environ else client_app(client.app, by_code=True)
