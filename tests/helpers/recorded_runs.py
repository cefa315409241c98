"""Runs whose nodes write down what they send, and a server that forges their record."""

import hashlib
import json

from fedtune.deployment.node_keys import fingerprint
from fedtune.messages.content_hash import hash_reply
from fedtune.node.sent_log import SentLog
from fedtune.records.folder import RunFolder
from fedtune.records.signed_chain import sign
from fedtune.round.screening.commitments import without_salt
from fedtune.runs.loop import Run
from fedtune.simulation import client
from fedtune.transport.local import LocalTransport


class Noting(LocalTransport):
    """Each client's node notes the order and what it sends, as `node_worker` does."""

    def __init__(self, folder, deployment, app=client.app):
        super().__init__(app, len(deployment.node_folders))
        self._run, self._nodes, self._orders = folder, deployment.node_folders, {}

    def push(self, message, *, most):
        pushed = super().push(message, most=most)
        self._orders[pushed] = dict(message.content["order"])
        return pushed

    def pull(self, ids):
        replies = super().pull(ids)
        for reply in replies:
            if reply.content is not None and "delta" in reply.content:
                node = self._nodes[reply.node_id - 2]
                (node / "run").mkdir(exist_ok=True)
                order = self._orders[reply.reply_to]
                # over a network the recipe travels as it stands in the manifest
                order["recipe"] = self._run.read_manifest().recipe
                start = reply.content["about"]["anchor_hash"]
                SentLog(node).note(order, hash_reply(without_salt(reply.content)), start)
        return replies


def record(recipe, deployment, *, app=client.app):
    """Run a recipe as the server of a deployment would: keys bound, nodes' logs, signature."""
    keys = [fingerprint(node.public_key) for node in deployment.description.nodes]

    class WithKeys(Run):
        def _begin(self, worker, server):
            write = self.folder.write_manifest
            self.folder.write_manifest = lambda facts: write({**facts, "node_keys": keys})
            super()._begin(worker, server)

    folder, recipe = RunFolder.create(recipe)
    WithKeys(recipe, folder).serve(Noting(folder, deployment, app))
    sign(folder, deployment.server_certificate, deployment.server_key)
    return folder


def lines_of(folder):
    return [json.loads(line) for line in folder.metrics.read_text().splitlines()]


def forge(folder, deployment, lines=None, manifest=None):
    """The server writes the record anew: every hash follows, and its own key signs the end."""
    lines = lines_of(folder) if lines is None else lines
    facts = folder.read_manifest().facts
    if manifest is not None:
        manifest(facts)
        folder.manifest.write_text(json.dumps(facts, indent=2) + "\n")
    need, written = hashlib.sha256(folder.manifest.read_bytes()).hexdigest(), b""
    for line in lines:
        text = json.dumps({**line, "previous": need}).encode() + b"\n"
        need, written = hashlib.sha256(text).hexdigest(), written + text
    folder.metrics.write_bytes(written)
    sign(folder, deployment.server_certificate, deployment.server_key)
