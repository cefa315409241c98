"""Flower's own apps in this process: one Grid, clients in turn, no network and no Ray."""

import traceback
from copy import deepcopy
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedtune.messages.message import CLIENT_RAISED

RUN_ID = 1
SERVER_NODE_ID = 1


class FlowerGrid(Grid):
    """Runs each client when its reply is pulled; node ids are the client's number plus 2."""

    def __init__(self, client_app, num_clients):
        self._app = client_app
        self._contexts = {
            client + 2: Context(RUN_ID, client + 2, {"partition-id": client}, RecordDict(), {})
            for client in range(num_clients)
        }
        self._pending = {}
        # Messages cannot be made outside a task's identity, which a runtime else provides.
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = RUN_ID, 1, SERVER_NODE_ID

    def get_node_ids(self):
        return list(self._contexts)

    def push_messages(self, messages):
        ids = []
        for message in messages:
            message_id = str(uuid4())
            message.metadata.__dict__["_message_id"] = message_id
            self._pending[message_id] = deepcopy(message)
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids):
        for message_id in message_ids:
            if message_id in self._pending:
                return [deepcopy(self._run_client(self._pending.pop(message_id)))]
        return []

    def send_and_receive(self, messages, *, timeout=None):
        ids = list(self.push_messages(messages))
        return [reply for message_id in ids for reply in self.pull_messages([message_id])]

    def set_run(self, run):
        """One run is all there is."""

    @property
    def run(self):
        return Run.create_empty(RUN_ID)

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None):
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def _run_client(self, message):
        try:
            return self._app(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:
            reason = "".join(traceback.format_exception(error))
            return Message(error=Error(CLIENT_RAISED, reason), reply_to=message)
