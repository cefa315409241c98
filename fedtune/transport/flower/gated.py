"""Flower's SuperLink behind fedtune's gate, with the nodes of its deployment let in.

`python -m fedtune.transport.flower.gated DEPLOYMENT ARGUMENTS`; the arguments are those of
`flower-superlink`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType

from fastapi import FastAPI
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.server.superlink.linkstate import LinkState
from starlette.middleware import Middleware

from fedtune.deployment.connections import Connections
from fedtune.deployment.folder import DeploymentFolder
from fedtune.deployment.gate import Gate
from fedtune.plain import clean_logs
from fedtune.transport.flower.admit import bring_in_line
from fedtune.transport.flower.bundle import make_bundle
from fedtune.transport.flower.guard import PIN, write_wrappers
from fedtune.transport.flower.listening import connections_for, hanging_up, uvicorn_on
from fedtune.transport.flower.replies_alone import guard_handlers
from fedtune.transport.flower.signed import Signed
from fedtune.transport.flower.whereabouts import SERVER

_HOOK = "flwr.ee.superlink.extensions"  # where Flower looks for middleware, outermost first


def main() -> None:
    """Start the SuperLink of a deployment behind the gate."""
    try:
        folder = DeploymentFolder.open(Path(sys.argv[1]))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    connections = connections_for(len(folder.names))
    put_gate_first(folder, connections)
    os.environ[SERVER] = str(folder.server)
    _run_own_apps_alone(Path(os.environ["FLWR_HOME"]) / "bin")
    from flwr.superlink.cli.flower_superlink import flower_superlink
    from flwr.superlink.servicer.fleet import fleet_handlers

    vars(fleet_handlers).update(guard_handlers(fleet_handlers))
    vars(sys.modules[flower_superlink.__module__])["uvicorn"] = uvicorn_on(connections)
    logging.getLogger("uvicorn.access").addFilter(_went_wrong)
    clean_logs()
    sys.argv = ["flower-superlink", *sys.argv[2:]]
    flower_superlink()


def put_gate_first(folder: DeploymentFolder, connections: Connections) -> None:
    """Have every SuperLink of this process stand behind the gate, and know a deployment's nodes.

    Raises:
        RuntimeError: If this Flower takes nothing from there: no gate, no SuperLink.
    """
    gate = Middleware(Gate, judge=Signed(), connections=connections)

    @asynccontextmanager
    async def with_nodes_let_in(app: FastAPI) -> AsyncIterator[None]:
        """Before the first request: a node that comes sooner than its key would be refused."""
        book = _LinkStateBook(app.state.linkstate_factory.state())
        print(bring_in_line(book, folder).told, flush=True)
        async with hanging_up(connections):
            yield

    hook = ModuleType(_HOOK)
    vars(hook)["get_middleware"] = lambda: (gate,)
    vars(hook)["get_lifespan_contexts"] = lambda: (with_nodes_let_in,)
    sys.modules[_HOOK] = hook
    from flwr.superlink import extensions

    taken = (*extensions.get_middleware(), *extensions.get_lifespan_contexts())
    if gate not in taken or with_nodes_let_in not in taken:
        raise RuntimeError("fedtune's gate needs flwr 1.41: this one lets nothing before its API")


class _LinkStateBook:
    """The list of the SuperLink in this process."""

    def __init__(self, state: LinkState) -> None:
        self._state = state

    def known(self) -> dict[bytes, tuple[int, str]]:
        listed = self._state.get_node_info(owner_aids=[NOOP_FLWR_AID])
        return {bytes(node.public_key): (node.node_id, node.status) for node in listed}

    def let_in(self, key: bytes, name: str) -> int:
        number = self._state.create_node(
            NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, HEARTBEAT_DEFAULT_INTERVAL, name=name
        )
        if number == 0:  # Flower's word for: not written
            raise RuntimeError(f"{name}: Flower's database did not take its key")
        return number

    def let_out(self, number: int) -> None:
        self._state.delete_node(NOOP_FLWR_AID, number)


def _run_own_apps_alone(commands: Path) -> None:
    """Have what Flower starts by name found here first: it runs fedtune's bundle and no other."""
    write_wrappers(commands)
    os.environ["PATH"] = os.pathsep.join([str(commands), os.environ.get("PATH", "")])
    os.environ.setdefault(PIN, make_bundle().hash_str)


def _went_wrong(record: logging.LogRecord) -> bool:
    """A line for each poll of each node would be 100 MB a day; keep those that were refused."""
    status = record.args[-1] if isinstance(record.args, tuple) and record.args else None
    return not isinstance(status, int) or status >= 400


if __name__ == "__main__":
    main()
