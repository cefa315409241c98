"""The one process of a node that holds the base and the rows, from message to message.

It listens on a socket that only its own user can reach, takes one message at a time, and trains
what its owner allowed. Run as `python -m fedtune.node.worker SOCKET NODE_FOLDER`.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto
from flwr.supercore.task_identity import TaskIdentity

from fedtune.messages import wire
from fedtune.messages.content_hash import hash_reply
from fedtune.messages.node_errors import failure, told
from fedtune.node import frames
from fedtune.plain import OwnLines, last_traceback
from fedtune.round.screening.commitments import without_salt
from fedtune.transport.flower.node_app import MAX_BYTES
from fedtune.transport.flower.packing import pack, unpack

Answer = Callable[[Message, Context], Message]
Adapt = Callable[[str], tuple[str, dict[str, Any]]]
Note = Callable[[Mapping[str, object], str, object], None]
Say = Callable[[str], None]
KINDS = ("query", "train", wire.REVEAL, "evaluate", wire.VOTE, wire.REVEAL_VOTE)


def ignore(order: Mapping[str, object], reply_hash: str, anchor_hash: object) -> None:
    """Note nothing."""


class Meter(Protocol):
    """What counts orders, and refuses those that are more than the owner allows."""

    def order(self) -> AbstractContextManager[None]:
        """Within it one order is worked on, of whatever kind."""

    def charge(self, kind: str, run_id: int, order: Mapping[str, object]) -> None:
        """Count what an order asks for, before it is done.

        Args:
            kind: Flower's type of the message.
            run_id: Flower's number of the run.
            order: The server's words, with the recipe as it is run here.
        """


class NoMeter:
    """Counts nothing, where there is no owner."""

    def order(self) -> AbstractContextManager[None]:
        """Nothing."""
        return nullcontext()

    def charge(self, kind: str, run_id: int, order: Mapping[str, object]) -> None:
        """Nothing."""


def serve(
    path: Path,
    answer: Answer,
    adapt: Adapt,
    note: Note = ignore,
    meter: Meter | None = None,
    say: Say = print,
) -> None:
    """Answer frames, one connection at a time, until the process ends.

    Args:
        path: Of the socket; its folder is its owner's alone.
        answer: The whole ClientApp.
        adapt: The server's recipe to the one that is run here, and what of the owner's the
            ClientApp is told beside it; raises where the owner forbids it.
        note: Told of each delta before it is sent: the order as it came, the hashes of reply and
            anchor.
        meter: Counts every order; None: nobody does.
        say: Writes a line of the node's log, told of each order that was carried out.
    """
    desk = Desk(answer, adapt, note, meter, say)
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
                frames.send(connection, {}, desk.reply_to(words, body))
            except (ConnectionError, OSError):
                continue  # who asked is gone; the server will hear of it from Flower
            except Exception as error:  # the server is told a code; the rest is for this log
                print(last_traceback(), file=sys.stderr, flush=True)
                _tell(connection, told(error))


class Desk:
    """Answers messages one after another; a run's state is kept from one to the next."""

    def __init__(
        self,
        answer: Answer,
        adapt: Adapt,
        note: Note = ignore,
        meter: Meter | None = None,
        say: Say = print,
    ) -> None:
        self._answer, self._adapt, self._note = answer, adapt, note
        self._meter = meter or NoMeter()
        self._run_id, self._state = 0, RecordDict()
        self._say = say

    def reply_to(self, words: dict[str, Any], body: bytes) -> bytes:
        """What the ClientApp answers to one message, as bytes."""
        with self._meter.order():  # before a byte of it is read
            return self._answered(words, body)

    def _answered(self, words: dict[str, Any], body: bytes) -> bytes:
        kind, client = words["kind"], words["client"]
        if kind not in KINDS:
            text = f"a message needs a kind of {', '.join(KINDS)}; got {kind!r}"
            raise failure("no-order", text)
        TaskIdentity.run_id, TaskIdentity.node_id = int(words["run_id"]), int(words["node_id"])
        TaskIdentity.task_id = 1
        content = unpack(recorddict_from_proto(RecordDictProto.FromString(body)))
        order = content.config_records[wire.ORDER]
        as_it_came = dict(order)
        order["recipe"], told = self._adapt(str(order["recipe"]))
        self._meter.charge(kind, TaskIdentity.run_id, order)
        message = Message(content, TaskIdentity.node_id, kind)
        message.metadata.__dict__["_message_id"] = "of-this-node"
        began = time.monotonic()
        answered = self._answer(message, self._context({**told, "partition-id": client})).content
        took_s = time.monotonic() - began
        self._say(f"{kind} {str(order.get('round', 0))[:20]}: {took_s:.3f} s")
        if wire.DELTA in answered:
            _refuse_what_is_not_finite(answered.array_records[wire.DELTA])
            start = answered.config_records[wire.ABOUT]["anchor_hash"]
            self._note(as_it_came, hash_reply(without_salt(answered)), start)
        sent: bytes = recorddict_to_proto(pack(answered)).SerializeToString()
        return sent

    def _context(self, config: dict[str, Any]) -> Context:
        if TaskIdentity.run_id != self._run_id:
            self._run_id, self._state = TaskIdentity.run_id, RecordDict()
        return Context(self._run_id, TaskIdentity.node_id, config, self._state, {})


def _refuse_what_is_not_finite(delta: ArrayRecord) -> None:
    """The last look at what leaves this node."""
    if not all(np.isfinite(array.numpy()).all() for array in delta.values()):
        raise failure("not-finite")


def _tell(connection: socket.socket, reason: str) -> None:
    try:
        frames.send(connection, {"error": reason})
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
    say = OwnLines().say  # before what is told of a stranger's recipe can be logged
    from fedtune.node.meter import NodeMeter
    from fedtune.node.owner import adapter_of
    from fedtune.records.sent import SentLog
    from fedtune.training.rendering import render_apart
    from fedtune.transport import client

    path, folder = Path(sys.argv[1]), Path(sys.argv[2])
    render_apart()
    note = SentLog(folder).note
    serve(path, client.app, adapter_of(folder), note, NodeMeter(folder), say)


if __name__ == "__main__":
    main()
