"""The transport of one process: clients take turns, and nothing is sent anywhere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from uuid import uuid4

from fedtune.failing import account_of
from fedtune.messages.asked import asked_of
from fedtune.messages.message import Context, Message
from fedtune.messages.recipe_once import restore_from_state

FIRST_NODE = 2  # node ids are the client's number plus this


class LocalTransport:
    """Runs each message's client when its reply is pulled, one at a time.

    A client here cannot be timed out: its turn ends when it ends.

    Args:
        client: What every client does with a message; each has its own state.
        num_clients: How many there are.
    """

    def __init__(self, client: Callable[[Message, Context], Message], num_clients: int) -> None:
        self._client = client
        self._contexts = {
            number + FIRST_NODE: Context({"partition-id": number, "num-partitions": num_clients})
            for number in range(num_clients)
        }
        self._pending: dict[str, Message] = {}

    def node_ids(self) -> list[int]:
        """All nodes; none ever leaves."""
        return list(self._contexts)

    def public_keys(self) -> Mapping[bytes, int] | None:
        """None: every client is believed about its number."""
        return None

    def push(self, message: Message, *, most: int) -> str:
        """Queue an order; the size of its reply is looked at when it comes."""
        order = replace(message, id=str(uuid4()), content=message.records.copied())
        self._pending[order.id] = order
        return order.id

    def pull(self, ids: Collection[str]) -> list[Message]:
        """Run the first queued client among those asked for, and hand over its reply."""
        for each in ids:
            if each in self._pending:
                return [self._reply_to(self._pending.pop(each))]
        return []

    def _reply_to(self, order: Message) -> Message:
        context = self._contexts[order.node_id]
        try:
            restore_from_state(order.records, context.state)
            return self._client(order, context)
        except (Exception, SystemExit) as error:  # as in every engine, its failure is its own
            return order.failed(account_of(error, asked_of(order, context)))
