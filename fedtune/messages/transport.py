"""What the round asks of a transport: orders out, replies back, one at a time."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from fedtune.messages.message import Message


class Transport(Protocol):
    """Carries messages to nodes and their replies back."""

    def node_ids(self) -> list[int]:
        """The nodes that are there now."""

    def public_keys(self) -> Mapping[bytes, int] | None:
        """The node of each authenticated key; None where nodes are believed about their number."""

    def push(self, message: Message, *, most: int) -> str:
        """Send an order.

        Args:
            message: To the node that it names.
            most: Bytes that the reply may have; a transport that can tell drops a larger one
                before it is in memory, and answers with an error in its place.

        Returns:
            The message's id, which the reply names.
        """

    def pull(self, ids: Collection[str]) -> list[Message]:
        """Replies to some of these messages that have come, possibly none; it does not wait long.

        Raises:
            RunStoppedError: If no reply will come any more, for a reason that is no client's.
        """
