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

from fedtune.messages import wire
from fedtune.messages.content_hash import hash_reply
from fedtune.messages.message import KINDS, ArrayRecord, Context, Message, RecordDict
from fedtune.messages.node_errors import failure, told
from fedtune.messages.packing import pack, unpack
from fedtune.messages.recipe_once import KeptRecipes, restore
from fedtune.node import frames
from fedtune.plain import OwnLines, last_traceback
from fedtune.round.screening.commitments import without_salt

Answer = Callable[[Message, Context], Message]
Adapt = Callable[[str], tuple[str, dict[str, Any]]]
Note = Callable[[Mapping[str, object], str, object], None]
Say = Callable[[str], None]


def ignore(order: Mapping[str, object], reply_hash: str, anchor_hash: object) -> None:
    """Note nothing."""


class Meter(Protocol):
    """What counts orders, and refuses those that are more than the owner allows."""

    def order(self) -> AbstractContextManager[None]:
        """Within it one order is worked on, of whatever kind."""

    def charge(self, kind: str, run_id: int, order: Mapping[str, object]) -> None:
        """Count what an order asks for, before it is done.

        Args:
            kind: Of the message.
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
    recipes: KeptRecipes | None = None,
) -> None:
    """Answer frames, one connection at a time, until the process ends.

    Args:
        path: Of the socket; its folder is its owner's alone.
        answer: The whole Client.
        adapt: The server's recipe to the one that is run here, and what of the owner's the
            Client is told beside it; raises where the owner forbids it.
        note: Told of each delta before it is sent: the order as it came, the hashes of reply and
            anchor.
        meter: Counts every order; None: nobody does.
        say: Writes a line of the node's log, told of each order that was carried out.
        recipes: Where recipes are kept; None: each order has to carry its own.
    """
    desk = Desk(answer, adapt, note, meter, say, recipes)
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
                words, body = frames.receive(connection, max_bytes=frames.MAX_BYTES)
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
        recipes: KeptRecipes | None = None,
    ) -> None:
        self._answer, self._adapt, self._note = answer, adapt, note
        self._meter = meter or NoMeter()
        self._recipes = recipes
        self._run_id, self._state = 0, RecordDict()
        self._say = say

    def reply_to(self, words: dict[str, Any], body: bytes) -> bytes:
        """What the Client answers to one message, as bytes."""
        with self._meter.order():  # before a byte of it is read
            return self._answered(words, body)

    def _answered(self, words: dict[str, Any], body: bytes) -> bytes:
        kind, client = words["kind"], words["client"]
        if kind not in KINDS:
            text = f"a message needs a kind of {', '.join(KINDS)}; got {kind!r}"
            raise failure("no-order", text)
        run_id, content = int(words["run_id"]), unpack(body)
        if self._recipes is not None:
            restore(content, self._recipes.recall, self._recipes.keep)
        order = content.config_records[wire.ORDER]
        as_it_came = dict(order)
        order["recipe"], told = self._adapt(str(order["recipe"]))
        told = {**told, "run": str(order.get("manifest", run_id))}
        self._meter.charge(kind, run_id, order)
        message = Message(content, int(words["node_id"]), kind, id="of-this-node")
        context = self._context(run_id, {**told, "partition-id": client})
        began = time.monotonic()
        answered = self._answer(message, context).records
        took_s = time.monotonic() - began
        self._say(f"{kind} {str(order.get('round', 0))[:20]}: {took_s:.3f} s")
        if wire.DELTA in answered:
            _refuse_what_is_not_finite(answered.array_records[wire.DELTA])
            start = answered.config_records[wire.ABOUT]["anchor_hash"]
            self._note(as_it_came, hash_reply(without_salt(answered)), start)
        return pack(answered)

    def _context(self, run_id: int, config: dict[str, Any]) -> Context:
        if run_id != self._run_id:
            self._run_id, self._state = run_id, RecordDict()
        return Context(config, self._state)


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
    """Serve the Client of this node."""
    end_with(os.getppid())
    say = OwnLines().say  # before what is told of a stranger's recipe can be logged
    from fedtune.node.client import Honest, make_client
    from fedtune.node.meter import NodeMeter
    from fedtune.node.owner import adapter_of
    from fedtune.node.sent_log import SentLog
    from fedtune.training.rendering import render_apart
    from fedtune.training.sources import keep_no_copies

    path, folder = Path(sys.argv[1]), Path(sys.argv[2])
    render_apart()
    keep_no_copies()
    note = SentLog(folder).note
    client, meter = make_client(lambda _: Honest()), NodeMeter(folder)
    recipes = KeptRecipes(folder / "run" / "recipes")
    serve(path, client, adapter_of(folder), note, meter, say, recipes)


if __name__ == "__main__":
    main()
