"""Nodes that speak the protocol and train nothing: threads of one process, without torch.

    python benchmarks/light_node.py BASE_HASH TOKENIZER_HASH HOST:PORT NODE_FOLDER...

Each answers an order to train with the hundred-thousandth part of the anchor.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import _path  # noqa: F401  before anything of ours
import numpy as np
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr import app as flower
from flwr.app.message import make_message
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectUnavailableError,
    inflate_object_from_contents,
)
from flwr.supernode.fleet_http_connection import http_request_response

from fedtune.messages.message import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from fedtune.transport.flower.convert import packed, unpacked

POLL_S = 3.0  # as Flower's own SuperNode


def answer_to(message: flower.Message, hashes: tuple[str, str]) -> flower.RecordDict:
    """What an honest client would send, but for the numbers."""
    words = {"base_hash": hashes[0], "tokenizer_hash": hashes[1]}
    if message.metadata.message_type == "query":
        about = ConfigRecord({**words, "client": 0, "anchor_hash": ""})
        return packed(RecordDict({"about": about}))
    content = unpacked(message.content)
    order = content.config_records["order"]
    about = {**words, "round": order["round"], "anchor_hash": order["anchor_hash"]}
    delta = {
        name: Array.of((1e-5 * array.numpy()).astype(np.float32))
        for name, array in content.array_records["anchor"].items()
    }
    return packed(
        RecordDict(
            {
                "delta": ArrayRecord(delta),
                "about": ConfigRecord(about),
                "metrics": MetricRecord({"train_loss": 1.0}),
            }
        )
    )


def pulled(pull: Callable[[int, str], bytes], run_id: int, object_id: str) -> bytes:
    """A piece of an order, waited for: an order is announced before all of it is there."""
    while True:
        try:
            return pull(run_id, object_id)
        except ObjectUnavailableError:
            time.sleep(0.5)


def serve(address: str, folder: Path, hashes: tuple[str, str]) -> None:
    """Answer what comes, until the process ends."""
    key = load_ssh_private_key((folder / "node.key").read_bytes(), password=None)
    ca = (folder / "ca.pem").read_bytes()
    with http_request_response(
        address,
        insecure=False,
        root_certificates=ca,
        authentication_keys=(key, key.public_key()),  # type: ignore[arg-type]
    ) as (node_id, receive, send, _, _, pull, push, confirm):
        while True:
            if (found := receive()) is None:
                time.sleep(POLL_S)
                continue
            order, tree = found
            run_id, order_id = order.metadata.run_id, order.metadata.message_id
            ids = [each.object_id for each in iterate_object_tree(tree)]
            pieces = {each: pulled(pull, run_id, each) for each in ids}
            confirm(run_id, order_id)
            message = inflate_object_from_contents(order_id, pieces)
            assert isinstance(message, flower.Message)
            metadata = flower.Metadata(
                run_id=run_id,
                message_id="",
                src_node_id=node_id,
                dst_node_id=order.metadata.src_node_id,
                reply_to_message_id=order_id,
                group_id="",
                created_at=time.time(),
                ttl=600.0,
                message_type=order.metadata.message_type,
            )
            reply = make_message(metadata, answer_to(message, hashes))
            objects = get_all_nested_objects(reply)
            metadata.__dict__["_message_id"] = reply.object_id
            wanted, session = send(reply, get_object_tree(reply), 0.0)
            for each in wanted:
                push(run_id, session, each, objects[each].deflate())


def main() -> None:
    """Serve every folder in a thread of its own."""
    hashes, address = (sys.argv[1], sys.argv[2]), sys.argv[3]
    for name in sys.argv[4:]:
        words = (address, Path(name), hashes)
        threading.Thread(target=serve, args=words, daemon=True).start()
        time.sleep(0.05)
    threading.Event().wait()


if __name__ == "__main__":
    main()
