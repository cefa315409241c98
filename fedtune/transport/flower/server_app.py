"""A server of ours as a Flower ServerApp."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedtune.messages.transport import Transport
from fedtune.transport.flower.grid import NetworkTransport, SimulationTransport

Carry = Callable[[bool], Transport]
"""The transport of the process, over a real network or of Flower's simulation."""


def server_app(serve: Callable[[Carry, Mapping[str, str]], None]) -> ServerApp:
    """The ServerApp that runs ``serve`` with a transport and Flower's run-config as text."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        def carry(network: bool) -> Transport:
            return NetworkTransport(grid) if network else SimulationTransport(grid)

        serve(carry, {key: str(value) for key, value in context.run_config.items()})

    return app
