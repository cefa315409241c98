"""A node with a valid key that speaks Flower's Fleet API by hand, and does what it likes."""

import threading
import time

from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import ConfigRecord, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectUnavailableError,
    inflate_object_from_contents,
)
from flwr.supercore.run import RunNotRunningException
from flwr.supernode.fleet_http_connection import http_request_response

from fedtune.messages.recipe_once import restore
from fedtune.training.process import get_worker
from fedtune.transport.flower.convert import from_flower, packed, unpacked


class RawNode:
    """Introduces itself as an honest node does; of the rest `act` makes what it wants.

    Args:
        deployment: Of which it holds the last node's key.
        act: Called with this node, an order's metadata, its words and their own record.
    """

    def __init__(self, deployment, act):
        self.deployment, self.act, self.noted = deployment, act, []
        self.recipes = {}  # by hash: later orders carry that alone
        self.stop, self.joined = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._serve)

    def __enter__(self):
        self.thread.start()
        assert self.joined.wait(60)
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join(60)

    def _serve(self):
        folder = self.deployment.node_folders[-1]
        key = load_ssh_private_key((folder / "node.key").read_bytes(), password=None)
        with http_request_response(
            self.deployment.local_address,
            insecure=False,
            root_certificates=(folder / "ca.pem").read_bytes(),
            authentication_keys=(key, key.public_key()),
            max_retries=0,
        ) as (self.node, receive, self.send, _, _, self.pull, self.push, self.confirm):
            self.joined.set()
            while not self.stop.wait(0.2):
                if found := receive():
                    self._take(*found)

    def _take(self, order, tree):
        metadata = order.metadata
        ids = [each.object_id for each in iterate_object_tree(tree)]
        pieces = {each: self._pulled(metadata.run_id, each) for each in ids}
        self.confirm(metadata.run_id, metadata.message_id)
        content = unpacked(inflate_object_from_contents(metadata.message_id, pieces).content)
        restore(content, self.recipes.get, self.recipes.__setitem__)
        words = content.config_records["order"]
        if metadata.message_type == "query":
            self.answer(metadata, self._about(words))
        else:
            self.act(self, metadata, words)

    def _pulled(self, run_id, object_id):
        while True:
            try:
                return self.pull(run_id, object_id)
            except ObjectUnavailableError:
                time.sleep(0.2)

    def _about(self, words):
        worker = get_worker(str(words["recipe"]))
        hashes = {"base_hash": worker.base_hash, "tokenizer_hash": worker.base.tokenizer_hash}
        told = {"client": 3, **hashes, "anchor_hash": "", "rows": 9, "schema_hash": "0" * 64}
        return RecordDict({"about": ConfigRecord(told)})

    def envelope(self, order, content):
        told = Metadata(
            run_id=order.run_id, message_id="", src_node_id=self.node,
            dst_node_id=order.src_node_id, reply_to_message_id=order.message_id, group_id="",
            created_at=time.time(), ttl=600.0, message_type=order.message_type,
        )  # fmt: skip
        return make_message(told, content)

    def answer(self, order, content):
        """An honest reply."""
        reply = self.envelope(order, packed(from_flower(content)))
        objects = get_all_nested_objects(reply)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        wanted, session = self.send(reply, get_object_tree(reply), 0.0)
        for each in wanted:
            self.push(order.run_id, session, each, objects[each].deflate())

    def announce(self, what, order, root, children):
        """Announce a tree of which nothing comes; note what became of it, and the seconds."""
        reply = self.envelope(order, RecordDict())
        reply.metadata.__dict__["_message_id"] = root
        began = time.monotonic()
        try:
            self.send(reply, ObjectTree(object_id=root, children=children), 0.0)
            done = "taken"
        except (Exception, RunNotRunningException) as error:  # the latter is Flower's for 403
            done = type(error).__name__
        self.noted.append((what, done, time.monotonic() - began))
