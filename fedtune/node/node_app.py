"""The thin ClientApp of a node: it hands each message to the node's worker, and the answer back.

Flower starts a process for each message. This one loads neither torch nor a model: the worker
beside it holds them from round to round.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from fedtune.messages.node_errors import failure
from fedtune.node import frames
from fedtune.transport.flower.client_app import Asked, ReportedError, relaying_app

SOCKET = "FEDTUNE_NODE_SOCKET"
_START_S = 120.0  # a worker that was just started loads torch before it listens


def ask_worker(asked: Asked) -> bytes:
    """The worker's answer to an order, both packed.

    Raises:
        ReportedError: With the worker's own error, a code of the closed list.
        ValueError: If the worker ends meanwhile, or there is none.
    """
    words = {
        "kind": asked.kind,
        "run_id": asked.run_id,
        "node_id": asked.node_id,
        "client": asked.client,
    }
    with _connect(Path(os.environ[SOCKET])) as connection:
        try:
            frames.send(connection, words, asked.blob)
            said, body = frames.receive(connection, max_bytes=frames.MAX_BYTES)
        except OSError as gone:
            raise failure("ended") from gone
    if error := said.get("error"):
        raise ReportedError(str(error))
    return body


app = relaying_app(ask_worker)


def _connect(path: Path) -> socket.socket:
    """The worker's socket, waited for: a worker that died is started again."""
    deadline = time.monotonic() + _START_S
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(path))
        except OSError as error:
            connection.close()
            if time.monotonic() > deadline:
                raise failure("no-worker", f"no worker listens: {error}") from error
            time.sleep(0.1)
        else:
            return connection
