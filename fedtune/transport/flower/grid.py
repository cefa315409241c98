"""Flower's grid of a real network, handled with care: one reply at a time, weighed as it comes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from flwr.app import Error, Message, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.serverapp import Grid
from flwr.supercore.constant import SYSTEM_MESSAGE_TYPE
from flwr.supercore.run import Run

from fedtune.transport.flower.packing import framed_bytes, pack
from fedtune.transport.flower.pulling import BadReplyError, Puller

SWEEP_S = 0.25  # between two looks at all that is open; longer where a look takes longer
UNREADABLE = 3  # Flower's code of a message that is not to be had
_ENVELOPE_BYTES = 2**16
MAX_BYTES = 2**33  # of a reply for which no bound was set


class CarefulGrid(Grid):
    """Hands over at most one reply a call, so that no two are in memory at once.

    What cannot be read, or weighs more than `bound` allows, becomes an error reply of that client
    alone: on Flower's own grid it would raise in the server.
    """

    def __init__(self, grid: Any) -> None:  # noqa: ANN401
        self._grid = grid
        self._bounds: dict[str, int] = {}
        self._puller = Puller(grid)
        self._looked_at: set[str] = set()  # in the sweep that is going on
        self._began = self._next_sweep = 0.0

    def bound(self, message_id: str, max_bytes: int) -> None:
        """Say what the reply to a message may weigh at most."""
        self._bounds[message_id] = framed_bytes(max_bytes) + _ENVELOPE_BYTES

    def get_node_ids(self) -> Iterable[int]:
        """Nodes that are connected."""
        return list(self._grid.get_node_ids())

    def public_keys(self) -> dict[bytes, int]:
        """The node of each authenticated key; a node without one is left out."""
        return {
            bytes(node.public_key): node.node_id
            for node in self._grid.get_nodes()
            if node.public_key
        }

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages, each packed under a nonce of its own."""
        return list(self._grid.push_messages([_packed(message) for message in messages]))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The next reply that is there, or none once all that is open was looked at."""
        if not self._looked_at:
            time.sleep(max(0.0, self._next_sweep - time.monotonic()))
            self._began = time.monotonic()
        asked = list(message_ids)
        self._puller.forget_all_but(asked)
        self._bounds = {each: self._bounds[each] for each in asked if each in self._bounds}
        for message_id in asked:
            if message_id in self._looked_at:
                continue
            self._looked_at.add(message_id)
            if arrived := self._pull(message_id):
                return arrived
        self._looked_at.clear()
        ended = time.monotonic()  # leave the SuperLink half its time
        self._next_sweep = ended + max(SWEEP_S, ended - self._began)
        return []

    def _pull(self, message_id: str) -> list[Message]:
        try:
            reply = self._puller.pull(message_id, self._bounds.get(message_id, MAX_BYTES))
        except BadReplyError as error:
            return [_error(message_id, str(error))]
        return [] if reply is None else [reply]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Flower's own loop: not for hostile replies, and not used here."""
        raise NotImplementedError("use fedtune.transport.gather.stream")

    def set_run(self, run: Run) -> None:
        """Flower has set it on the grid underneath."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run that the SuperLink started."""
        found: Run = self._grid.run
        return found

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Flower's old way of making a message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)


def _packed(message: Message) -> Message:
    return make_message(metadata=message.metadata, content=pack(message.content))


def _error(message_id: str, reason: str) -> Message:
    """An error reply to a message, as Flower makes them where a node is gone."""
    metadata = Metadata(
        run_id=0,
        message_id="",
        src_node_id=0,
        dst_node_id=0,
        message_type=SYSTEM_MESSAGE_TYPE,
        group_id="",
        ttl=0,
        reply_to_message_id=message_id,
        created_at=time.time(),
    )
    return make_message(metadata=metadata, error=Error(UNREADABLE, reason))
