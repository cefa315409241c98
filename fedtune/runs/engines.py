"""Where a run's two Flower apps run: in this process, or on Ray. The apps are the same."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flwr.app import Context, RecordDict

from fedtune.recipe import Recipe
from fedtune.records.events import Observer, RunStoppedError, ignore
from fedtune.records.folder import RunFolder
from fedtune.runs.loop import Run
from fedtune.transport import client
from fedtune.transport.local import RUN_ID, SERVER_NODE_ID, LocalGrid


def execute(recipe: Recipe, folder: RunFolder, observer: Observer = ignore) -> None:
    """Run a recipe to its end in a folder, from the folder's newest checkpoint if it has one.

    Raises:
        RunStoppedError: If the run could not go on.
        KeyboardInterrupt: If it was interrupted. In both cases the last checkpoint is valid.
        ValueError: If another process is running in the folder.
    """
    logging.getLogger("flwr").setLevel(logging.ERROR)
    if recipe.federation.engine == "superlink":  # the server's own process locks the folder
        _on_superlink(recipe, folder, observer)
        return
    run = Run(recipe, folder, observer)
    with folder.locked():
        if recipe.federation.engine == "local":
            _on_local(run)
        else:
            _on_ray(run)


def _on_local(run: Run) -> None:
    grid = LocalGrid(client.app, run.recipe.federation.num_clients)
    context = Context(RUN_ID, SERVER_NODE_ID, {}, RecordDict(), {})
    run.app()(grid, context)


def _on_superlink(recipe: Recipe, folder: RunFolder, observer: Observer) -> None:
    from fedtune.deployment.folder import DeploymentFolder
    from fedtune.transport.flower.control import Control
    from fedtune.transport.flower.superlink import run_on_superlink

    if recipe.federation.deployment is None:
        raise RunStoppedError("federation.deployment: the engine superlink needs it")
    there = DeploymentFolder.open(recipe.federation.deployment)
    with Control(there.local_address, there.ca) as control:
        run_on_superlink(control, there.server, folder, observer)


def _on_ray(run: Run) -> None:
    from flwr.simulation import run_simulation

    federation = run.recipe.federation
    cpus, there = federation.threads_per_client, os.cpu_count() or 1
    if cpus > there:  # Ray would wait for them for ever
        raise RunStoppedError(f"federation.threads_per_client: needs {cpus} CPUs; got {there}")
    backend: dict[str, dict[str, Any]] = {
        "client_resources": {"num_cpus": cpus, "num_gpus": federation.client_gpus},
        "init_args": {"logging_level": "ERROR", "log_to_driver": False},
    }
    with _interrupt_sets(run.stop) as interrupted:
        try:
            run_simulation(run.app(), client.app, federation.num_clients, backend_config=backend)
        except Exception as error:
            if run.error is None:
                raise RunStoppedError(f"Flower's simulation engine failed: {error}") from error
    if interrupted.is_set():
        raise KeyboardInterrupt
    if run.error is not None:
        raise run.error


@contextmanager
def _interrupt_sets(stop: threading.Event) -> Iterator[threading.Event]:
    """Turn Ctrl-C into a flag: raised in the main thread it would leave the server's running."""
    interrupted = threading.Event()

    def note(*_: object) -> None:
        if interrupted.is_set():  # the second time it is meant at once
            raise KeyboardInterrupt
        interrupted.set()
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
