"""A transport that keeps the tracebacks which clients on this machine send."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from fedtune.messages.message import CLIENT_RAISED, Message
from fedtune.messages.transport import Transport
from fedtune.records.failures import Failures


class Noting:
    """Hands all on to another transport, and notes each failure that comes back.

    Args:
        transport: Of an engine whose clients are this machine's.
        failures: Where they go.
    """

    def __init__(self, transport: Transport, failures: Failures) -> None:
        self._transport, self._failures = transport, failures

    def node_ids(self) -> list[int]:
        """As the transport's."""
        return self._transport.node_ids()

    def public_keys(self) -> Mapping[bytes, int] | None:
        """As the transport's."""
        return self._transport.public_keys()

    def push(self, message: Message, *, most: int) -> str:
        """As the transport's."""
        return self._transport.push(message, most=most)

    def pull(self, ids: Collection[str]) -> list[Message]:
        """As the transport's; what failed is noted."""
        replies = self._transport.pull(ids)
        for reply in replies:
            if reply.error is not None and reply.error.code == CLIENT_RAISED:
                self._failures.note(reply.error.reason or "")
        return replies
