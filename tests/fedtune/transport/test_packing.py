"""Packed, records come out as they went in, bit for bit; what is damaged is refused."""

import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

from fedtune.messages.content_hash import hash_reply
from fedtune.transport.flower import packing

ODD = {
    "whole": np.arange(12, dtype=np.float32).reshape(3, 4),
    "turned": np.arange(12, dtype=np.float32).reshape(3, 4).T,
    "a number": np.array(-0.0, np.float32),
    "none": np.zeros((0, 5), np.float32),
    "not finite": np.array([np.nan, -np.inf], np.float32),
    "wide": np.array([1e300]),
}


def reply(arrays):
    return RecordDict(
        {
            "delta": ArrayRecord({name: Array(values) for name, values in arrays.items()}),
            "about": ConfigRecord({"round": 1}),
        }
    )


def blob_of(header, body=b""):
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return len(text).to_bytes(8, "little") + text + body


def framed(body):
    return b"".join(packing._framed([body], b"n" * 32))


def as_message(blob):
    array = Array("uint8", (len(blob),), packing.PACKED, blob)
    return RecordDict({packing.PACKED: ArrayRecord({packing.PACKED: array})})


def packed(blob, *, name=b"delta", words=b""):
    """A message of one array record whose safetensors are these bytes."""
    body = len(words).to_bytes(8, "little") + words
    body += len(name).to_bytes(2, "little") + len(blob).to_bytes(8, "little") + name + blob
    return as_message(framed(body))


def blob_in(content):
    return content[packing.PACKED][packing.PACKED].data


def test_what_comes_out_is_what_went_in_to_the_bit():
    sent = reply({name: np.ascontiguousarray(values) for name, values in ODD.items()})
    found = packing.unpack(packing.pack(sent))
    assert hash_reply(found) == hash_reply(sent)
    assert list(found["delta"]) == sorted(ODD)
    assert found["about"] == sent["about"]


def test_a_message_of_any_records_travels_as_one_array():
    arrays = reply({f"a{number}": np.ones(3, np.float32) for number in range(50)})
    words = RecordDict({"metrics": MetricRecord({"loss": 1.5}), "about": arrays["about"]})
    both = RecordDict({**arrays, "anchor": arrays["delta"], "metrics": words["metrics"]})
    for sent in (arrays, words, both, RecordDict()):
        travels = packing.pack(sent)
        assert packing.is_packed(travels)
        assert get_object_tree(travels).children[0].children[0].children  # one piece at least
        assert len(get_all_nested_objects(travels)) == 4
        assert hash_reply(packing.unpack(travels)) == hash_reply(sent)


def test_no_piece_of_a_message_is_that_of_another_with_the_same_records():
    """A zero update of several of Flower's pieces, and words that everyone knows."""
    floats = 3 * FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE // 4 // 4 * 4
    sent = reply({"b": np.zeros(floats, np.float32)})
    first, second = (get_all_nested_objects(packing.pack(sent)) for _ in range(2))
    kinds = sorted(type(each).__name__ for each in first.values())
    assert kinds == ["Array", "ArrayChunk", "ArrayChunk", "ArrayChunk", "ArrayRecord", "RecordDict"]
    assert len(first) == len(second)
    assert not set(first) & set(second)


def test_every_piece_of_flowers_begins_with_the_nonce(monkeypatch):
    assert FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE % packing.FRAME_BYTES == 0
    monkeypatch.setattr(packing.secrets, "token_bytes", lambda count: b"n" * count)
    blob = blob_in(packing.pack(reply({"a": np.zeros(100_000, np.float32)})))
    for at in range(0, len(blob), packing.FRAME_BYTES):
        assert blob[at : at + 33].startswith(b"n" * 32)
        assert len(blob[at : at + 33]) == 33
    room = packing.FRAME_BYTES - 32
    for count in (1, room - 1, room, room + 1, 5 * room):
        assert len(framed(b"x" * count)) == packing.framed_bytes(count)


def test_an_array_that_lies_otherwise_in_memory_keeps_its_values():
    found = packing.unpack(packing.pack(reply({"turned": ODD["turned"]})))
    np.testing.assert_array_equal(found["delta"]["turned"].numpy(), ODD["turned"])


def test_records_that_were_not_packed_stay_as_they_are():
    sent = reply(ODD)
    assert packing.unpack(sent) is sent
    named = RecordDict({packing.PACKED: ArrayRecord({packing.PACKED: Array(ODD["whole"])})})
    assert packing.unpack(named) is named  # of that name, in numpy's own format


def test_an_envelope_that_is_cut_or_says_too_much_is_refused():
    good = blob_in(packing.pack(reply({"a": ODD["whole"]})))
    for cut in (0, 1, 31, 32, 33, 39, 40, len(good) - 1):
        with pytest.raises(ValueError, match="cut short"):
            packing.unpack(as_message(good[:cut]))
    with pytest.raises(ValueError, match="bytes of words"):
        packing.unpack(as_message(framed((2**20 + 1).to_bytes(8, "little"))))
    with pytest.raises(ValueError, match="cut short"):
        packing.unpack(as_message(framed((2**20).to_bytes(8, "little"))))
    with pytest.raises(DecodeError):
        packing.unpack(as_message(framed((3).to_bytes(8, "little") + b"\xff\xff\xff")))


def test_a_record_that_is_named_twice_is_refused_and_so_are_too_many():
    section = (1).to_bytes(2, "little") + len(BLOB).to_bytes(8, "little")
    with pytest.raises(ValueError, match="names a record twice"):
        packing.unpack(as_message(framed(bytes(8) + 2 * (section + b"a" + BLOB))))
    names = [b"%c" % (33 + number) for number in range(packing.MAX_RECORDS + 1)]
    body = bytes(8) + b"".join(section + name + BLOB for name in names)
    with pytest.raises(ValueError, match="at most 64 records"):
        packing.unpack(as_message(framed(body)))


BLOB = blob_of({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4)
BROKEN = {
    "empty": b"",
    "a length alone": (9).to_bytes(8, "little"),
    "no JSON": blob_of(b"{"),
    "no UTF-8": blob_of(b"\xff\xfe"),
    "a gap": blob_of({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"\0" * 8),
    "an overlap": blob_of(
        {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for name in "ab"}, b"\0" * 4
    ),
    "a shape that overflows": blob_of(
        {"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 4]}}, b"\0" * 4
    ),
    "a shape of more than there is": blob_of(
        {"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}, b"\0" * 4
    ),
    "a tail": blob_of({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 9),
    "a dtype that numpy has not": blob_of(
        {"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}, b"\0" * 4
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_damaged_blob_is_refused(how):
    with pytest.raises((ValueError, SafetensorError, KeyError, TypeError)):
        packing.unpack(packed(BROKEN[how]))


def test_a_header_that_says_it_is_huge_is_not_read():
    with pytest.raises(ValueError, match="header needs at most"):
        packing.unpack(packed((packing.MAX_HEADER_BYTES + 1).to_bytes(8, "little")))


def test_more_arrays_than_any_adapter_has_are_not_made(monkeypatch):
    monkeypatch.setattr(packing, "MAX_ARRAYS", 3)
    none = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    three = blob_of({str(number): none for number in range(3)})
    assert len(packing.unpack(packed(three))["delta"]) == 3
    with pytest.raises(ValueError, match="at most 3 arrays"):
        packing.unpack(packed(blob_of({str(number): none for number in range(4)})))


GOOD = blob_in(packing.pack(reply({"a": ODD["whole"], "b": ODD["a number"]})))


@given(st.data())
def test_no_blob_raises_what_a_server_would_not_catch(data):
    blob = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(blob) - 1))
        blob[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=5))
        blob = blob or bytearray(b"\0")
    try:
        found = packing.unpack(as_message(bytes(blob)))
    except Exception:
        return
    arrays = [each for record in found.array_records.values() for each in record.values()]
    assert sum(len(array.data) for array in arrays) < len(blob) + 1024
