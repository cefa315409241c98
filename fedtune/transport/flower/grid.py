"""Flower's grids as a transport of ours; that of a real network is handled with care."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

from flwr.serverapp import Grid

from fedtune.messages.message import CLIENT_RAISED, Error, Message
from fedtune.messages.packing import framed_bytes
from fedtune.records.events import RunStoppedError
from fedtune.transport.flower.convert import order_to_flower, reply_from_flower
from fedtune.transport.flower.pulling import BadReplyError, Puller

SWEEP_S = 0.25  # between two looks at all that is open; longer where a look takes longer
UNREADABLE = 3  # Flower's code of a message that is not to be had
_ENVELOPE_BYTES = 2**16
DEAD_WORKER = ("ActorDiedError", "RayActorError", "ActorUnavailableError", "WorkerCrashedError")


class SimulationTransport:
    """Flower's grid of its simulation engine, where every client is one of ours."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def node_ids(self) -> list[int]:
        """All nodes."""
        return list(self._grid.get_node_ids())

    def public_keys(self) -> Mapping[bytes, int] | None:
        """None: every client is believed about its number."""
        return None

    def push(self, message: Message, *, most: int) -> str:
        """Send an order; the size of its reply is looked at when it comes."""
        (message_id,) = self._grid.push_messages([order_to_flower(message, pack=False)])
        return str(message_id)

    def pull(self, ids: Collection[str]) -> list[Message]:
        """What has come.

        Raises:
            RunStoppedError: If a Ray worker died: dead workers go back into the pool and fail every
                next client, honest ones too.
        """
        replies = [reply_from_flower(each) for each in self._grid.pull_messages(list(ids))]
        for reply in replies:
            if reply.error is not None:
                _refuse_dead_worker(reply.error)
        return replies


class NetworkTransport:
    """Flower's grid of a real network: one reply at a time, weighed as it comes.

    No two replies are in memory at once. What cannot be read, or weighs more than its order allows,
    becomes an error of that client alone: on Flower's own grid it would raise in the server.
    """

    def __init__(self, grid: Any) -> None:  # noqa: ANN401
        self._grid = grid
        self._bounds: dict[str, int] = {}
        self._puller = Puller(grid)
        self._looked_at: set[str] = set()  # in the sweep that is going on
        self._began = self._next_sweep = 0.0

    def node_ids(self) -> list[int]:
        """Nodes that are connected."""
        return list(self._grid.get_node_ids())

    def public_keys(self) -> Mapping[bytes, int] | None:
        """The node of each authenticated key; a node without one is left out."""
        return {
            bytes(node.public_key): node.node_id
            for node in self._grid.get_nodes()
            if node.public_key
        }

    def push(self, message: Message, *, most: int) -> str:
        """Send an order, packed under a new nonce."""
        (message_id,) = self._grid.push_messages([order_to_flower(message, pack=True)])
        self._bounds[str(message_id)] = framed_bytes(most) + _ENVELOPE_BYTES
        return str(message_id)

    def pull(self, ids: Collection[str]) -> list[Message]:
        """The next reply that is there, or none once all that is open was looked at."""
        if not self._looked_at:
            time.sleep(max(0.0, self._next_sweep - time.monotonic()))
            self._began = time.monotonic()
        self._puller.forget_all_but(ids)
        for message_id in ids:
            if message_id in self._looked_at or message_id not in self._bounds:
                continue
            self._looked_at.add(message_id)
            if (reply := self._pull(message_id)) is not None:
                del self._bounds[message_id]
                return [reply]
        self._looked_at.clear()
        ended = time.monotonic()  # leave the SuperLink half its time
        self._next_sweep = ended + max(SWEEP_S, ended - self._began)
        return []

    def _pull(self, message_id: str) -> Message | None:
        try:
            return self._puller.pull(message_id, self._bounds[message_id])
        except BadReplyError as error:
            return Message(None, reply_to=message_id, error=Error(UNREADABLE, str(error)))


def _refuse_dead_worker(error: Error) -> None:
    if error.code == CLIENT_RAISED:
        return
    if any(name in (error.reason or "") for name in DEAD_WORKER):
        raise RunStoppedError(
            "a Ray worker died, most often of too little memory: ask for fewer workers "
            "(federation.threads_per_client, federation.client_gpus) or use federation.engine=local"
        )
