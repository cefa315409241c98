"""Packed, records come out as they went in, bit for bit; what is damaged is refused."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

from fedtune.messages import packing
from fedtune.messages.content_hash import hash_reply
from fedtune.messages.message import Array, ArrayRecord, ConfigRecord, RecordDict

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
            "delta": ArrayRecord({name: Array.of(values) for name, values in arrays.items()}),
            "about": ConfigRecord({"round": 1}),
        }
    )


def blob_of(header, body=b""):
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return len(text).to_bytes(8, "little") + text + body


def framed(body):
    return b"".join(packing._framed([body], b"n" * 32))


NO_WORDS = (2).to_bytes(8, "little") + b"[]"


def packed(blob, *, name=b"delta", words=b"[]"):
    """A message of one array record whose safetensors are these bytes."""
    body = len(words).to_bytes(8, "little") + words
    body += len(name).to_bytes(2, "little") + len(blob).to_bytes(8, "little") + name + blob
    return framed(body)


def test_what_comes_out_is_what_went_in_to_the_bit():
    sent = reply({name: np.asarray(values, order="C") for name, values in ODD.items()})
    found = packing.unpack(packing.pack(sent))
    assert hash_reply(found) == hash_reply(sent)
    assert list(found["delta"]) == sorted(ODD)
    assert found["about"] == sent["about"]


def test_an_array_that_lies_otherwise_in_memory_keeps_its_values():
    found = packing.unpack(packing.pack(reply({"turned": ODD["turned"]})))
    np.testing.assert_array_equal(found["delta"]["turned"].numpy(), ODD["turned"])


def test_an_envelope_that_is_cut_or_says_too_much_is_refused():
    good = packing.pack(reply({"a": ODD["whole"]}))
    for cut in (0, 1, 31, 32, 33, 39, 40, len(good) - 1):
        with pytest.raises(ValueError, match="cut short"):
            packing.unpack(good[:cut])
    with pytest.raises(ValueError, match="bytes of words"):
        packing.unpack(framed((2**20 + 1).to_bytes(8, "little")))
    with pytest.raises(ValueError, match="cut short"):
        packing.unpack(framed((2**20).to_bytes(8, "little")))
    with pytest.raises(ValueError, match="utf-8"):
        packing.unpack(framed((3).to_bytes(8, "little") + b"\xff\xff\xff"))


def test_a_record_that_is_named_twice_is_refused_and_so_are_too_many():
    section = (1).to_bytes(2, "little") + len(BLOB).to_bytes(8, "little")
    with pytest.raises(ValueError, match="names a record twice"):
        packing.unpack(framed(NO_WORDS + 2 * (section + b"a" + BLOB)))
    with pytest.raises(ValueError, match="names a record twice"):
        packing.unpack(packed(BLOB, words=b'[["delta","words",[]]]'))
    names = [b"%c" % (33 + number) for number in range(packing.MAX_RECORDS + 1)]
    body = NO_WORDS + b"".join(section + name + BLOB for name in names)
    with pytest.raises(ValueError, match="at most 64 records"):
        packing.unpack(framed(body))


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
    with pytest.raises((ValueError, SafetensorError)):
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


GOOD = packing.pack(reply({"a": ODD["whole"], "b": ODD["a number"]}))


@given(st.data())
def test_no_blob_raises_what_a_server_would_not_catch(data):
    blob = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(blob) - 1))
        blob[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=5))
        blob = blob or bytearray(b"\0")
    try:
        found = packing.unpack(bytes(blob))
    except (ValueError, SafetensorError):
        return
    arrays = [each for record in found.array_records.values() for each in record.values()]
    assert sum(len(array.data) for array in arrays) < len(blob) + 1024
