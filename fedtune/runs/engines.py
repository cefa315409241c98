"""Where server and clients of a run work: in this process, on Ray, or over a SuperLink."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from fedtune.durable import refuse_links
from fedtune.recipe import Recipe
from fedtune.records.events import Observer, RunStoppedError, ignore
from fedtune.records.failures import Failures, give_up
from fedtune.records.folder import RunFolder
from fedtune.runs.loop import Run
from fedtune.simulation import client
from fedtune.transport.local import LocalTransport


def execute(recipe: Recipe, folder: RunFolder, observer: Observer = ignore) -> None:
    """Run a recipe to its end in a folder, from the folder's newest checkpoint if it has one.

    Raises:
        RunStoppedError: If the run could not go on.
        KeyboardInterrupt: If it was interrupted. In both cases the last checkpoint is valid; but a
            new folder in which nothing was finished goes with an error.
        ValueError: If another process is running in the folder, or a link is in it.
    """
    logging.getLogger("flwr").setLevel(logging.ERROR)
    refuse_links(folder.path)
    if recipe.federation.engine == "superlink":  # the server's own process locks the folder
        with _given_up(folder):
            _on_superlink(recipe, folder, observer)
        return
    run = Run(recipe, folder, observer)
    with folder.locked(), _given_up(folder):
        if recipe.federation.engine == "local":
            _on_local(run)
        else:
            _on_ray(run)


@contextmanager
def _given_up(folder: RunFolder) -> Iterator[None]:
    Failures(folder.path).forget()
    try:
        yield
    except Exception as error:
        give_up(folder, error)
        raise


def _on_local(run: Run) -> None:
    run.serve(LocalTransport(client.app, run.recipe.federation.num_clients))


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
    from fedtune.transport.flower.ray import run_on_ray

    federation = run.recipe.federation
    with _interrupt_sets(run.stop) as interrupted:
        try:
            run_on_ray(
                run.serve,
                client.app,
                federation.num_clients,
                cpus=federation.threads_per_client,
                gpus=federation.client_gpus,
            )
        except RunStoppedError:
            if not interrupted.is_set():
                raise
    if interrupted.is_set():
        raise KeyboardInterrupt


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
