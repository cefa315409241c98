"""Send messages, and pull the replies one at a time as they come."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from fedtune.messages import wire
from fedtune.messages.message import Message
from fedtune.messages.transport import Transport
from fedtune.recipe import Recipe
from fedtune.records.events import RunStoppedError

POLL_S = 0.05


@dataclass(frozen=True)
class Gathered:
    """Who was asked, by message, what came back, and what of it was not kept.

    Who a reply is from is read off this table: a reply's own word for it can be a lie, and that
    of an error reply is the SuperLink's.

    Attributes:
        asked: Client by message.
        replies: What came back, where it is kept.
        refused: Why a reply was not kept at all, by client: too much, or no message that can be
            weighed.
        repeated: How many further replies to its one message a client sent; none was looked at.
    """

    asked: dict[str, int] = field(default_factory=dict)
    replies: list[Message] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    repeated: dict[int, int] = field(default_factory=dict)

    def sender(self, reply: Message) -> int:
        """The client whose message this reply answers."""
        return self.asked[reply.reply_to]

    def note_repeated(self, reply: Message) -> None:
        """Count a further reply; one to no message of ours is no client's, and is not counted."""
        client = self.asked.get(reply.reply_to)
        if client is not None:
            self.repeated[client] = self.repeated.get(client, 0) + 1

    def keeps(self, reply: Message, max_bytes: int) -> bool:
        """Whether a reply is a message that weighs no more; if not, `refused` says why."""
        reason = None
        try:
            if reply.error is None and reply.content is None:
                reason = "its reply holds neither an answer nor an error"
            elif (size := wire.count_bytes(reply)) > max_bytes:
                reason = f"its reply of {size} bytes is more than any good one"
        except Exception as error:  # whatever a hostile reply manages to raise
            reason = f"its reply cannot be weighed: {type(error).__name__}"
        if reason is not None:
            self.refused[self.sender(reply)] = reason
        return reason is None

    def by_client(self) -> dict[int, Message]:
        """The replies in ascending order of clients: they come in order of completion."""
        return dict(sorted((self.sender(reply), reply) for reply in self.replies))


@dataclass(frozen=True)
class Limits:
    """Limits on time and size.

    Attributes:
        timeout_s: Seconds until the absent are absent; None waits for all.
        max_bytes: A reply of more is dropped as it comes, before the next one is pulled; one
            number for all, or one by client.
    """

    timeout_s: float | None
    max_bytes: int | Mapping[int, int]

    @classmethod
    def of(cls, recipe: Recipe, max_bytes: int | Mapping[int, int]) -> Limits:
        """The limits of a recipe's engine. `local` takes turns, and cannot time a client out."""
        if recipe.federation.engine == "local":
            return cls(None, max_bytes)
        return cls(recipe.federation.round_timeout_s, max_bytes)

    def max_bytes_of(self, client: int) -> int:
        """The most that this client's reply may weigh."""
        return self.max_bytes if isinstance(self.max_bytes, int) else self.max_bytes[client]


def gather(
    transport: Transport,
    messages: Mapping[int, Message],
    *,
    limits: Limits,
    stop: threading.Event,
) -> Gathered:
    """`stream`, to the end: for replies that are small enough to keep them all."""
    gathered = Gathered()
    gathered.replies.extend(stream(transport, messages, gathered, limits=limits, stop=stop))
    return gathered


def stream(
    transport: Transport,
    messages: Mapping[int, Message],
    gathered: Gathered,
    *,
    limits: Limits,
    stop: threading.Event,
    lost: AbstractSet[str] = frozenset(),
) -> Iterator[Message]:
    """Send one message to each client and hand over the replies one at a time.

    Args:
        transport: Of any engine.
        messages: By client.
        gathered: Filled in as it goes: who was asked, whose reply was not kept and why, and who
            replied again.
        limits: On time and size.
        stop: Set from outside to leave early.
        lost: Messages whose replies will never come, as far as is known by now; looked at after
            each pull, so that no one waits for them.

    Yields:
        The replies as they come, at most one to a message; who is missing did not answer in time.
        None is kept here, and none is pulled before the last one was dealt with.

    Raises:
        RunStoppedError: If ``stop`` was set, or the transport itself has failed.
    """
    for client, message in messages.items():
        gathered.asked[transport.push(message, most=limits.max_bytes_of(client))] = client
    open_ids = set(gathered.asked)
    deadline = math.inf if limits.timeout_s is None else time.monotonic() + limits.timeout_s
    while (open_ids := open_ids - lost) and time.monotonic() < deadline:
        if stop.is_set():
            raise RunStoppedError("interrupted")
        waiting = [message_id for message_id in gathered.asked if message_id in open_ids]
        arrived = transport.pull(waiting)
        if not arrived and not open_ids & lost:
            time.sleep(POLL_S)
        while arrived:
            reply = arrived.pop(0)
            if reply.reply_to not in open_ids:
                gathered.note_repeated(reply)
                continue
            open_ids.remove(reply.reply_to)
            if gathered.keeps(reply, limits.max_bytes_of(gathered.sender(reply))):
                yield reply
