"""Flower's simulation engine: clients in processes of Ray."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from fedtune.messages.message import Client
from fedtune.messages.transport import Transport
from fedtune.records.events import RunStoppedError
from fedtune.transport.flower.client_app import client_app
from fedtune.transport.flower.grid import SimulationTransport


def run_on_ray(
    serve: Callable[[Transport], None],
    client: Client,
    num_clients: int,
    *,
    cpus: int,
    gpus: float,
) -> None:
    """Run a server and its clients to the end.

    Args:
        serve: The whole run; what it raises is raised here.
        client: Of importable functions: it is sent to other processes.
        num_clients: How many there are.
        cpus: Cores that each client takes.
        gpus: Share of a GPU that each client takes.

    Raises:
        RunStoppedError: If there are fewer cores, or the engine itself fails.
    """
    there = os.cpu_count() or 1
    if cpus > there:  # Ray would wait for them for ever
        raise RunStoppedError(f"federation.threads_per_client: needs {cpus} CPUs; got {there}")
    backend: dict[str, dict[str, Any]] = {
        "client_resources": {"num_cpus": cpus, "num_gpus": gpus},
        "init_args": {"logging_level": "ERROR", "log_to_driver": False},
    }
    raised: list[BaseException] = []
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            serve(SimulationTransport(grid))
        except BaseException as error:
            raised.append(error)
            raise

    try:
        run_simulation(app, client_app(client), num_clients, backend_config=backend)
    except Exception as error:
        if not raised:
            raise RunStoppedError(f"Flower's simulation engine failed: {error}") from error
    if raised:
        raise raised[0]
