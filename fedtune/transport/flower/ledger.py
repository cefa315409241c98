"""What belongs to which node of a SuperLink: its orders, and the one reply to each.

Flower keeps no such book: there a node may fetch, delete and announce any piece whose hash it can
name, in trees of any size, and announce one message again and again. The book is in memory. After
a restart of the SuperLink the orders of before are no one's, and their run has ended with it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from threading import Lock

from flwr.proto.fleet_pb2 import PushMessagesResponse
from flwr.proto.message_pb2 import ObjectTree

MOST_DEEP = 5  # a message, its records, a record, an array, a piece of it
# Beyond the largest order of its run: a delta is no larger than the anchor, its words may be.
ROOM_OBJECTS = 1
ROOM_BYTES = 2**20


class NotYoursError(Exception):
    """A node asked for what is not its own, or for more; the text says why."""


class BusyError(Exception):
    """The same is being done for the node already; it may ask again."""


@dataclass
class Order:
    """An order that a node was given, and what became of it.

    Attributes:
        run: Flower's number of the run.
        kind: Flower's type of the message.
        expires: When no reply to it counts any more, in the seconds of ``time.time``.
        pieces: The hashes that its node may fetch; of each, how many bytes were fetched.
        reply: The announcement of its one reply; empty as long as there is none.
        answer: What the SuperLink answered to it; None while it does.
        missing: The hashes of the reply whose contents have not come.
        stored: Those that have.
        bytes_left: What may still come.
    """

    run: int
    kind: str
    expires: float
    pieces: dict[str, int]
    reply: bytes = b""
    answer: PushMessagesResponse | None = None
    missing: set[str] = field(default_factory=set)
    stored: set[str] = field(default_factory=set)
    bytes_left: int = 0


class Ledger:
    """The orders of every node that can still be answered; many threads may ask at once."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._orders: dict[int, dict[str, Order]] = {}

    def give(self, node: int, message_id: str, given: Order) -> None:
        """Note that a node was given an order; what has expired is forgotten."""
        with self._lock:
            orders, now = self._orders.setdefault(node, {}), time.time()
            for old in [key for key, order in orders.items() if order.expires < now]:
                del orders[old]
            orders[message_id] = given

    def order(self, node: int, message_id: str) -> Order:
        """An order of a node, which may speak of its own alone."""
        with self._lock:
            return self._order(node, message_id)

    def fetch(self, node: int, object_id: str, size: int | None = None) -> None:
        """Let a node fetch a piece of its orders alone; note what it weighed."""
        with self._lock:
            for order in self._orders.get(node, {}).values():
                if object_id in order.pieces:
                    order.pieces[object_id] = size or order.pieces[object_id]
                    return
        raise NotYoursError("a node fetches the pieces of its own orders, and nothing else")

    def announce(self, node: int, order_id: str, tree: ObjectTree) -> PushMessagesResponse | None:
        """Take the announcement of a reply; what was answered to it if it has come before.

        Raises:
            NotYoursError: If it answers another's order, is a second reply, or has more pieces, or
                is deeper, than any good reply.
            BusyError: If it is being answered already.
        """
        announced = tree.SerializeToString(deterministic=True)
        with self._lock:
            order = self._order(node, order_id)
            if order.reply == announced:
                if order.answer is None:
                    raise BusyError("this reply is being taken already")
                return order.answer
            if order.reply:
                raise NotYoursError("an order is answered once")
            _check_shape(tree, most=ROOM_OBJECTS + max(map(len, self._pieces(node, order.run))))
            order.reply = announced
            return None

    def take_back(self, node: int, order_id: str) -> None:
        """Forget an announcement that the SuperLink did not take."""
        with self._lock:
            if order := self._orders[node].get(order_id):  # else it has expired meanwhile
                order.reply = b""

    def settle(self, node: int, order_id: str, answer: PushMessagesResponse) -> None:
        """Note which pieces of a reply are to come."""
        with self._lock:
            order = self._orders[node].get(order_id)
            if order is None:  # it has expired meanwhile
                return
            order.answer, order.missing = answer, set(answer.objects_to_push)
            fetched = max(sum(pieces.values()) for pieces in self._pieces(node, order.run))
            order.bytes_left = fetched + ROOM_BYTES

    def admit(self, node: int, object_id: str, size: int) -> bool:
        """Let in a piece that a node has announced; False if it is there already.

        Raises:
            NotYoursError: If it has not, or the reply weighs more than any good one.
        """
        with self._lock:
            for order in self._orders.get(node, {}).values():
                if object_id in order.stored:
                    return False
                if object_id in order.missing:
                    if size > order.bytes_left:
                        raise NotYoursError("this reply weighs more than any good one")
                    order.bytes_left -= size
                    return True
        raise NotYoursError("a node pushes the pieces of its own replies, and nothing else")

    def store(self, node: int, object_id: str) -> None:
        """Note that a piece is there."""
        with self._lock:
            for order in self._orders.get(node, {}).values():
                if object_id in order.missing:
                    order.missing.remove(object_id)
                    order.stored.add(object_id)

    def _order(self, node: int, message_id: str) -> Order:
        order = self._orders.get(node, {}).get(message_id)
        if order is None:
            raise NotYoursError("a node answers the orders that it was given, and no other")
        return order

    def _pieces(self, node: int, run: int) -> list[dict[str, int]]:
        """Of a node's orders of one run: a reveal is small, and what it asks for is not."""
        return [order.pieces for order in self._orders[node].values() if order.run == run]


def hashes_of(tree: ObjectTree) -> list[str]:
    """The hashes of a tree, each as often as it is there."""
    found, ahead = [], [tree]
    while ahead:
        node = ahead.pop()
        found.append(node.object_id)
        ahead.extend(node.children)
    return found


def _check_shape(tree: ObjectTree, *, most: int) -> None:
    """Refuse a tree that no good reply has, before it is walked to its end."""
    level, count, seen = [tree], 0, set[str]()
    for _ in range(MOST_DEEP):
        count += len(level)
        if count > most:
            raise NotYoursError(f"this reply is in more than {most} pieces: no good one is")
        seen.update(node.object_id for node in level)
        level = [child for node in level for child in node.children]
    if level:
        raise NotYoursError(f"this reply is more than {MOST_DEEP} pieces deep: no good one is")
    if len(seen) < count:
        raise NotYoursError("this reply names a piece twice: no good one does")
