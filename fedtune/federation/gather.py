"""Send messages, and pull the replies one at a time as they come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from flwr.app import Message
from flwr.serverapp import Grid

from fedtune.federation.events import RunStoppedError

POLL_S = 0.05
CLIENT_APP_RAISED = 2  # Flower's code where the text is the client's own, and may say anything
DEAD_WORKER = ("ActorDiedError", "RayActorError", "ActorUnavailableError", "WorkerCrashedError")


@dataclass(frozen=True)
class Gathered:
    """Who was asked, by message, and what came back.

    Who a reply is from is read off this table: a reply's own word for it can be a lie, and that
    of an error reply is the SuperLink's.
    """

    asked: dict[str, int] = field(default_factory=dict)
    replies: list[Message] = field(default_factory=list)

    def sender(self, reply: Message) -> int:
        """The client whose message this reply answers."""
        return self.asked[reply.metadata.reply_to_message_id]

    def by_client(self) -> dict[int, Message]:
        """The replies in ascending order of clients: they come in order of completion."""
        return dict(sorted((self.sender(reply), reply) for reply in self.replies))


def gather(
    grid: Grid,
    messages: Mapping[int, Message],
    *,
    timeout_s: float | None,
    stop: threading.Event,
    on_reply: Callable[[int, Message], None],
) -> Gathered:
    """Send one message to each client and wait for the replies.

    Args:
        grid: Flower's, of any engine.
        messages: By client.
        timeout_s: Seconds until the absent are absent; None waits for all.
        stop: Set from outside to leave early.
        on_reply: Told of each reply as it comes.

    Returns:
        The replies, at most one to a message; who is missing did not answer in time.

    Raises:
        RunStoppedError: If ``stop`` was set, or a Ray worker died: dead workers go back into the
            pool and fail every next client, honest ones too.
    """
    gathered = Gathered()
    for client, message in messages.items():
        for message_id in grid.push_messages([message]):
            gathered.asked[message_id] = client
    open_ids = set(gathered.asked)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while open_ids and (deadline is None or time.monotonic() < deadline):
        if stop.is_set():
            raise RunStoppedError("interrupted")
        waiting = [message_id for message_id in gathered.asked if message_id in open_ids]
        arrived = list(grid.pull_messages(waiting))
        for reply in arrived:
            if reply.metadata.reply_to_message_id not in open_ids:
                continue  # a second reply to one message, or to none of ours
            _refuse_dead_worker(reply)
            open_ids.remove(reply.metadata.reply_to_message_id)
            gathered.replies.append(reply)
            on_reply(gathered.sender(reply), reply)
        if not arrived:
            time.sleep(POLL_S)
    return gathered


def _refuse_dead_worker(reply: Message) -> None:
    if not reply.has_error() or reply.error.code == CLIENT_APP_RAISED:
        return
    if any(name in (reply.error.reason or "") for name in DEAD_WORKER):
        raise RunStoppedError(
            "a Ray worker died, most often of too little memory: ask for fewer workers "
            "(federation.threads_per_client, federation.client_gpus) or use federation.engine=local"
        )
