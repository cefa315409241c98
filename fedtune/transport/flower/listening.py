"""uvicorn on a socket of ours, whose connections are counted and never silent for long."""

from __future__ import annotations

import asyncio
import resource
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fedtune.deployment.connections import Connections, Listener

_LOOK_S = 1.0
MAX_HEAD_BYTES = 2**16  # of a request's first line and headers
_FILES = 2**16  # of this process, where its limit may be raised so far
_OWN_FILES = 256  # that are no connections
_MOST, _MOST_PER_ADDRESS = 1024, 64
_OF_A_NODE = 4  # connections; a node has one or two, and several may share an address


def connections_for(nodes: int) -> Connections:
    """The bounds for a deployment of so many nodes, within the files that may be open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = max(soft, _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    wanted = _MOST + _OF_A_NODE * nodes
    most = min(wanted, (files - _OWN_FILES) // 2)  # this machine has as many
    return Connections(most, min(most, _MOST_PER_ADDRESS + _OF_A_NODE * nodes))


class BriefHeads(HttpToolsProtocol):
    """uvicorn's own protocol, which keeps headers of any length, and hangs up on too long ones."""

    _unfinished: int | None = 0  # bytes of a head that has not ended; None within a body

    def on_message_begin(self) -> None:
        """A request begins."""
        self._unfinished = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its head has ended."""
        self._unfinished = None
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Read on, unless the head is too long."""
        super().data_received(data)
        if self._unfinished is not None:
            self._unfinished += len(data)
            if self._unfinished > MAX_HEAD_BYTES:
                self.transport.abort()


def server_of(app: Any, **options: Any) -> uvicorn.Server:  # noqa: ANN401
    """Uvicorn's server of an app, with TLS of this decade whatever the machine's OpenSSL allows."""
    config = uvicorn.Config(app, loop="asyncio", http=BriefHeads, ws="none", **options)
    config.load()
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    return uvicorn.Server(config)


def uvicorn_on(connections: Connections) -> SimpleNamespace:
    """What stands in the place of the module `uvicorn`, of which Flower calls `run`.

    asyncio's own loop: uvloop accepts in C, where nothing is counted.
    """

    def run(app: Any, *, host: str, port: int, **options: Any) -> None:  # noqa: ANN401
        server = server_of(app, **options)
        try:
            listener = Listener(host, port, connections)
        except OSError as error:
            sys.exit(f"error: the SuperLink cannot listen on {host}:{port}: {error}")
        with listener, suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
        if not server.started:
            sys.exit(1)

    return SimpleNamespace(run=run)


@asynccontextmanager
async def hanging_up(connections: Connections) -> AsyncIterator[None]:
    """Within it the silent are hung up on."""

    async def look() -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            connections.hang_up_on_the_silent()

    looking = asyncio.create_task(look())
    try:
        yield
    finally:
        looking.cancel()
