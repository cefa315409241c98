"""Messages of ours as Flower's and back: not a bit of them changes, and no piece can be guessed."""

import math
import struct

import numpy as np
import pytest
from flwr import app as flower
from flwr.app.message import make_message
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

from fedtune.messages import packing
from fedtune.messages.content_hash import hash_reply
from fedtune.messages.message import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from fedtune.transport.flower import convert

ODD = {
    "whole": np.arange(12, dtype=np.float32).reshape(3, 4),
    "turned": np.arange(12, dtype=np.float32).reshape(3, 4).T,
    "a number": np.array(-0.0, np.float32),
    "none": np.zeros((0, 5), np.float32),
    "not finite": np.array([np.nan, -np.nan, -np.inf, 1e-45], np.float32),
    "wide": np.array([1e300]),
    "big-endian": np.array([1, 2], ">i2"),
    "true": np.array([True]),
}
WORDS = {
    "another nan": struct.unpack("<d", bytes.fromhex("010000000000f8ff"))[0],
    "infinite": -math.inf,
    "zero": -0.0,
    "one": 1,
    "one as a float": 1.0,
    "true": True,
    "large": 2**63 - 1,
    "small": -(2**63),
    "text": "\0\x1b\u2028\U0001f600",
    "bytes": bytes(range(256)),
    "numbers": [0.1, math.inf],
    "many": [b"", b"x"],
    "": ["", "a"],
}


def reply(arrays):
    return RecordDict(
        {
            "delta": ArrayRecord({name: Array.of(values) for name, values in arrays.items()}),
            "about": ConfigRecord({"round": 1}),
        }
    )


def odd_reply():
    numbers = {key: each for key, each in WORDS.items() if type(each) in (int, float)}
    arrays = ArrayRecord({name: Array.of(values) for name, values in ODD.items()})
    arrays["of no format"] = Array("pickle", (-1, 2), "x\x1b", b"\x80\x04.")
    records = {"delta": arrays, "about": ConfigRecord(WORDS), "metrics": MetricRecord(numbers)}
    return RecordDict({**records, "no arrays": ArrayRecord(), "no words": ConfigRecord()})


def carried(content):
    """Flower's records by way of the pieces that it sends."""
    pieces = {key: each.deflate() for key, each in get_all_nested_objects(content).items()}
    return inflate_object_from_contents(content.object_id, pieces)


def kinds_of(content):
    return [(name, type(record)) for name, record in content.items()]


def test_ours_to_flowers_and_back_keeps_every_bit():
    sent = odd_reply()
    theirs = convert.to_flower(sent)
    assert {type(record).__module__.partition(".")[0] for record in theirs.values()} == {"flwr"}
    for found in (convert.from_flower(theirs), convert.from_flower(carried(theirs))):
        assert hash_reply(found) == hash_reply(sent)
        assert dict(kinds_of(found)) == dict(kinds_of(sent))
    assert kinds_of(convert.from_flower(theirs)) == kinds_of(sent)
    axes = convert.from_flower(carried(theirs))["delta"]["whole"].shape
    assert repr(axes) == "(3, 4)"


def test_packed_by_way_of_flowers_pieces_every_bit_is_kept():
    sent = odd_reply()
    sent["delta"] = ArrayRecord(
        {
            name: Array.of(np.asarray(values, order="C"))
            for name, values in ODD.items()
            if name != "big-endian"
        }
    )
    found = convert.unpacked(carried(convert.packed(sent)))
    assert hash_reply(found) == hash_reply(sent)


def test_a_message_of_any_records_travels_as_one_array():
    arrays = reply({f"a{number}": np.ones(3, np.float32) for number in range(50)})
    words = RecordDict({"metrics": MetricRecord({"loss": 1.5}), "about": arrays["about"]})
    both = RecordDict({**arrays, "anchor": arrays["delta"], "metrics": words["metrics"]})
    for sent in (arrays, words, both, RecordDict()):
        travels = convert.packed(sent)
        assert convert.blob_of(travels) is not None
        assert get_object_tree(travels).children[0].children[0].children  # one piece at least
        assert len(get_all_nested_objects(travels)) == 4
        assert hash_reply(convert.unpacked(travels)) == hash_reply(sent)


def test_no_piece_of_a_message_is_that_of_another_with_the_same_records():
    """A zero update of several of Flower's pieces, and words that everyone knows."""
    floats = 3 * FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE // 4 // 4 * 4
    sent = reply({"b": np.zeros(floats, np.float32)})
    first, second = (get_all_nested_objects(convert.packed(sent)) for _ in range(2))
    kinds = sorted(type(each).__name__ for each in first.values())
    assert kinds == ["Array", "ArrayChunk", "ArrayChunk", "ArrayChunk", "ArrayRecord", "RecordDict"]
    assert len(first) == len(second)
    assert not set(first) & set(second)


def test_every_piece_of_flowers_begins_with_the_nonce(monkeypatch):
    assert FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE % packing.FRAME_BYTES == 0
    monkeypatch.setattr(packing.secrets, "token_bytes", lambda count: b"n" * count)
    blob = convert.blob_of(convert.packed(reply({"a": np.zeros(100_000, np.float32)})))
    for at in range(0, len(blob), packing.FRAME_BYTES):
        assert blob[at : at + 33].startswith(b"n" * 32)
        assert len(blob[at : at + 33]) == 33
    room = packing.FRAME_BYTES - 32
    for count in (1, room - 1, room, room + 1, 5 * room):
        framed = b"".join(packing._framed([b"x" * count], b"n" * 32))
        assert len(framed) == packing.framed_bytes(count)


def test_records_that_were_not_packed_stay_as_they_are():
    sent = reply(ODD)
    assert convert.blob_of(convert.to_flower(sent)) is None
    assert hash_reply(convert.unpacked(convert.to_flower(sent))) == hash_reply(sent)
    own_format = ArrayRecord({convert.PACKED: Array.of(ODD["whole"])})
    named = RecordDict({convert.PACKED: own_format})  # of that name, in numpy's own format
    assert hash_reply(convert.unpacked(convert.to_flower(named))) == hash_reply(named)


@pytest.mark.parametrize("pack", [True, False])
def test_an_order_arrives_at_the_node_that_it_names(pack):
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 5, 1, 1
    sent = Message(odd_reply(), 2**63 + 7, "train.reveal", ttl_s=60.0)
    sent.content.pop("delta")
    theirs = convert.order_to_flower(sent, pack=pack)
    assert theirs.metadata.ttl == 60.0
    assert (convert.blob_of(theirs.content) is not None) == pack
    found = convert.order_from_flower(theirs)
    assert (found.node_id, found.kind) == (2**63 + 7, "train.reveal")
    assert hash_reply(found.content) == hash_reply(sent.content)


def test_a_reply_comes_with_its_order_and_its_node_or_with_its_error():
    metadata = flower.Metadata(5, "own", 9, 1, "order", "", 0.0, 60.0, "train")
    found = convert.reply_from_flower(make_message(metadata, convert.to_flower(reply(ODD))))
    assert (found.node_id, found.kind, found.id, found.reply_to) == (9, "train", "own", "order")
    assert hash_reply(found.content) == hash_reply(reply(ODD))
    assert found.error is None
    failed = make_message(metadata, error=flower.Error(2, "why"))
    found = convert.reply_from_flower(failed)
    assert (found.content, found.error, found.reply_to) == (None, Error(2, "why"), "order")
