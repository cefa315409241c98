"""The one process of a node that holds the base and the rows, from message to message.

It listens on a socket that only its own user can reach, takes one message at a time, and trains
what its owner allowed. Run as `python -m fedtune.federation.link.node_worker SOCKET NODE_FOLDER`.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto
from flwr.supercore.task_identity import TaskIdentity

from fedtune.federation import wire
from fedtune.federation.client import OWN_ROWS
from fedtune.federation.link import frames
from fedtune.federation.link.node_app import MAX_BYTES
from fedtune.federation.screening.screen import last_line

Answer = Callable[[Message, Context], Message]
Adapt = Callable[[str], tuple[str, bool]]
KINDS = ("query", "train", "evaluate")


def serve(path: Path, answer: Answer, adapt: Adapt) -> None:
    """Answer frames, one connection at a time, until the process ends.

    Args:
        path: Of the socket; its folder is its owner's alone.
        answer: The whole ClientApp.
        adapt: The server's recipe to the one that is run here, and whether all its rows are this
            node's own; raises where the owner forbids it.
    """
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen()
    while True:
        connection, _ = listener.accept()
        with connection:
            try:
                words, body = frames.receive(connection, max_bytes=MAX_BYTES)
                frames.send(connection, {}, reply_to(words, body, answer, adapt))
            except (ConnectionError, OSError):
                continue  # who asked is gone; the server will hear of it from Flower
            except Exception as error:  # the server is told one line; the rest is for this log
                traceback.print_exc()
                _tell(connection, f"{type(error).__name__}: {error}")


def reply_to(words: dict[str, Any], body: bytes, answer: Answer, adapt: Adapt) -> bytes:
    """What the ClientApp answers to one message, as bytes."""
    kind, client = words["kind"], words["client"]
    if kind not in KINDS:
        raise ValueError(f"a message needs a kind of {', '.join(KINDS)}; got {kind!r}")
    TaskIdentity.run_id, TaskIdentity.node_id = int(words["run_id"]), int(words["node_id"])
    TaskIdentity.task_id = 1
    content = recorddict_from_proto(RecordDictProto.FromString(body))
    order = content.config_records[wire.ORDER]
    order["recipe"], own = adapt(str(order["recipe"]))
    message = Message(content, TaskIdentity.node_id, kind)
    message.metadata.__dict__["_message_id"] = "of-this-node"
    config = {"partition-id": client, OWN_ROWS: own}
    context = Context(TaskIdentity.run_id, TaskIdentity.node_id, config, RecordDict(), {})
    answered: bytes = recorddict_to_proto(answer(message, context).content).SerializeToString()
    return answered


def _tell(connection: socket.socket, reason: str) -> None:
    try:
        frames.send(connection, {"error": last_line(reason)})
    except OSError:
        return


def end_with(parent: int) -> None:
    """End this process when the one that started it is gone, however that ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """Serve the ClientApp of this node."""
    end_with(os.getppid())
    from fedtune.federation import client
    from fedtune.federation.link.owner import adapter_of

    path, folder = Path(sys.argv[1]), Path(sys.argv[2])
    serve(path, client.app, adapter_of(folder))


if __name__ == "__main__":
    main()
