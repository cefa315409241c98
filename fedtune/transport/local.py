"""An in-process Flower Grid: the same apps, one process, clients in turn, no Ray."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from copy import deepcopy
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedtune.transport.gather import CLIENT_APP_RAISED

RUN_ID = 1
SERVER_NODE_ID = 1


class LocalGrid(Grid):
    """Runs each message's client when its reply is pulled, one at a time.

    A client here cannot be timed out: its turn ends when it ends. Node ids are the client's
    number plus two, so that none is the server's.
    """

    def __init__(self, client_app: ClientApp, num_clients: int) -> None:
        self._app = client_app
        self._contexts = {
            client + 2: _context(client, num_clients, node_id=client + 2)
            for client in range(num_clients)
        }
        self._pending: dict[str, Message] = {}
        # Messages cannot be made outside a task's identity, which a runtime else provides.
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = RUN_ID, 1, SERVER_NODE_ID

    def get_node_ids(self) -> Iterable[int]:
        """All nodes; none ever leaves."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue copies of the messages: senders share one content between many."""
        ids = []
        for message in messages:
            message_id = str(uuid4())
            message.metadata.__dict__["_message_id"] = message_id
            self._pending[message_id] = deepcopy(message)
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Run the next queued client among those asked for, and hand over its reply."""
        for message_id in message_ids:
            if message_id in self._pending:
                return [deepcopy(self._run_client(self._pending.pop(message_id)))]
        return []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Run all clients in turn. ``timeout`` cannot be kept, and is not looked at."""
        ids = list(self.push_messages(messages))
        return [reply for message_id in ids for reply in self.pull_messages([message_id])]

    def set_run(self, run: Run) -> None:
        """Nothing to set: a local grid serves one run."""

    @property
    def run(self) -> Run:
        """The one run that a local grid serves."""
        return Run.create_empty(RUN_ID)

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

    def _run_client(self, message: Message) -> Message:
        context = self._contexts[message.metadata.dst_node_id]
        try:
            return self._app(message, context)
        except Exception as error:  # as in every engine, a client's failure is its own
            reason = "".join(traceback.format_exception(error))
            return Message(error=Error(CLIENT_APP_RAISED, reason), reply_to=message)


def _context(client: int, num_clients: int, *, node_id: int) -> Context:
    return Context(
        run_id=RUN_ID,
        node_id=node_id,
        node_config={"partition-id": client, "num-partitions": num_clients},
        state=RecordDict(),
        run_config={},
    )
