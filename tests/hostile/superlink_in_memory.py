"""Flower's own SuperLink without its HTTP: real state, real handlers, and nodes that may say all.

Its handlers are Flower's own; the fixture `guarded` puts fedtune's checks before them.

A hostile node of a real network is not bound to Flower's client: it sends any bytes as the pieces
of its reply. `send` is what a SuperNode does; what it sends is the caller's.
"""

import hashlib
import time

import numpy as np
from flwr.app import Array, ArrayRecord, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.app.message.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree, PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid.http_grid import HttpGrid
from flwr.superlink.servicer.fleet import fleet_handlers as fleet
from flwr.superlink.servicer.runtime import runtime_handlers as runtime

from fedtune.messages import message as ours
from fedtune.transport.flower import convert
from fedtune.transport.flower.grid import NetworkTransport

SUPERLINK = 1
BOUND = 300_000  # bytes of a reply to an order of `ordered`


class SuperLink:
    """A SuperLink with a run and so many nodes; `grid` is what fedtune's server is given."""

    def __init__(self, nodes, database=FLWR_IN_MEMORY_DB_NAME):
        manager = NoOpFederationManager()
        store = ObjectStoreFactory(database)
        self.state = LinkStateFactory(database, manager, store).state()
        manager.linkstate = self.state
        self.run_id = self.state.create_run(
            None, None, None, {}, NOOP_FEDERATION_ID, None, "account", TaskType.SERVER_APP
        )
        (self.task,) = self.state.get_tasks()
        self.state.claim_task(self.task.task_id)
        self.state.activate_task(self.task.task_id)
        self.nodes = []
        for number in range(nodes):
            node = self.state.create_node("account", "name", b"key %d" % number, 1e6)
            self.state.activate_node(node, 1e6)
            self.nodes.append(node)
        TaskIdentity.run_id, TaskIdentity.task_id = self.run_id, self.task.task_id
        TaskIdentity.node_id = SUPERLINK
        self.calls, self.trees = 0, {}  # the tree of each node's newest order
        self.http = HttpGrid(token="none")
        self.http._client = self
        self.http.set_run(self.state.get_run_info(run_ids=[self.run_id])[0])
        self.grid = NetworkTransport(self.http)

    def __getattr__(self, name):
        """The methods of Flower's runtime client, straight to the handlers behind the HTTP."""
        handlers = {
            "PushMessages": runtime.push_messages,
            "PushObject": runtime.push_object,
            "PullMessages": runtime.pull_messages,
            "PullObject": runtime.pull_object,
            "ConfirmMessageReceived": runtime.confirm_message_received,
            "GetNodes": runtime.get_nodes,
        }
        if name not in handlers:
            raise AttributeError(name)

        def call(request):
            self.calls += 1
            return handlers[name](request, self.state, self.task)

        return call

    def order_of(self, node):
        """The order that a node finds: what it may know of the run."""
        request = PullMessagesRequest(node=Node(node_id=node))
        answer = fleet.pull_messages(request, self.state, self.state.object_store)
        (order,), (self.trees[node],) = answer.messages_list, answer.message_object_trees
        return message_from_proto(order)

    def fetch(self, node, object_id):
        """A piece, as a node asks for it."""
        request = PullObjectRequest(
            node=Node(node_id=node), run_id=self.run_id, object_id=object_id
        )
        return fleet.pull_object(request, self.state)

    def metadata(self, order, node, **changes):
        told = {
            "run_id": self.run_id,
            "message_id": "",
            "src_node_id": node,
            "dst_node_id": SUPERLINK,
            "reply_to_message_id": order.metadata.message_id if order else "",
            "group_id": "",
            "created_at": time.time(),
            "ttl": 30.0,
            "message_type": order.metadata.message_type if order else "train",
        }
        return Metadata(**(told | changes))

    def send(self, node, metadata, pieces, tree, *, held_back=()):
        """Push a message and its pieces; those held back are announced and never come."""
        envelope = make_message(metadata, RecordDict())
        envelope.metadata.__dict__["_message_id"] = tree.object_id
        self.state.acknowledge_task_heartbeat(self.task.task_id)  # a slow machine lost the run
        request = PushMessagesRequest(
            node=Node(node_id=node),
            messages_list=[message_to_proto(envelope)],
            message_object_trees=[tree],
        )
        answer = fleet.push_messages(request, self.state)
        wanted = [each for each in answer.objects_to_push if each not in held_back]
        self.push(node, answer.session_id, {each: pieces[each] for each in wanted})
        return answer

    def push(self, node, session_id, pieces):
        """Push pieces that were announced."""
        for object_id, content in pieces.items():
            request = PushObjectRequest(
                node=Node(node_id=node),
                run_id=self.run_id,
                session_id=session_id,
                object_id=object_id,
                object_content=content,
            )
            fleet.push_object(request, self.state)


def taken_apart(metadata, content):
    """A message's pieces by id, and their tree, as Flower's client would make them."""
    message = make_message(metadata, content)
    pieces = {key: piece.deflate() for key, piece in get_all_nested_objects(message).items()}
    return pieces, get_object_tree(message)


def piece(kind, children, body):
    """One piece in Flower's form: its kind, its children's ids, its length, its body."""
    return f"{kind} {','.join(map(id_of, children))} {len(body)}".encode() + b"\0" + body


def id_of(content):
    return hashlib.sha256(content).hexdigest()


def head_of(metadata):
    """The body of a message's own piece, which says again, unchecked, who answers what."""
    content = remove_content_from_message(make_message(metadata, RecordDict()))
    return content.deflate().split(b"\0", 1)[1]


def tree_of(*chain):
    """Pieces each of which has the one before as its only child."""
    tree = None
    for content in chain:
        tree = ObjectTree(object_id=id_of(content), children=[tree] if tree else [])
    return {id_of(content): content for content in chain}, tree


def ordered(link, *, ttl=60, most=BOUND):
    """One order to each node; their ids and what the nodes see of them."""
    ids, orders = [], []
    for number, node in enumerate(link.nodes):
        content = ours.RecordDict({"order": ours.ConfigRecord({"n": number})})
        ids.append(link.grid.push(ours.Message(content, node, "train", ttl), most=most))
        orders.append(link.order_of(node))
    return ids, orders


def content_of(number):
    values = np.full((2, 3), number, np.float32)
    return RecordDict({"delta": ArrayRecord({"a": Array(values)})})


def packed(content):
    """The same as fedtune's nodes send it."""
    return convert.packed(convert.from_flower(content))


def answer_honestly(link, order, number):
    metadata = link.metadata(order, link.nodes[number])
    link.send(link.nodes[number], metadata, *taken_apart(metadata, content_of(number)))


def number_in(content):
    """What `content_of` put there; None if there is nothing of the kind."""
    return float(content["delta"]["a"].numpy()[0, 0]) if "delta" in content else None


def pulled(link, ids, *, sweeps=3):
    """What comes, by the order that it answers: a number, or an error's reason."""
    found, left = {}, list(ids)
    for _ in range(sweeps * len(ids)):
        for reply in link.grid.pull(left):
            left.remove(reply.reply_to)
            if reply.error is not None:
                found[ids.index(reply.reply_to)] = reply.error.reason
            else:
                found[ids.index(reply.reply_to)] = number_in(reply.content)
    return found
