"""Packed, an adapter's arrays come out as they went in, bit for bit; a damaged blob is refused."""

import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

from fedtune.federation.canonical import hash_reply
from fedtune.federation.link import packing

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


def packed(blob):
    array = Array("uint8", (len(blob),), packing.PACKED, blob)
    return RecordDict({"delta": ArrayRecord({packing.PACKED: array})})


def test_what_comes_out_is_what_went_in_to_the_bit():
    sent = reply({name: np.ascontiguousarray(values) for name, values in ODD.items()})
    found = packing.unpack(packing.pack(sent))
    assert hash_reply(found) == hash_reply(sent)
    assert list(found["delta"]) == sorted(ODD)
    assert found["about"] == sent["about"]


def test_a_record_of_many_arrays_travels_as_one():
    sent = reply({f"a{number}": np.ones(3, np.float32) for number in range(50)})
    assert list(packing.pack(sent)["delta"]) == [packing.PACKED]


def test_an_array_that_lies_otherwise_in_memory_keeps_its_values():
    found = packing.unpack(packing.pack(reply({"turned": ODD["turned"]})))
    np.testing.assert_array_equal(found["delta"]["turned"].numpy(), ODD["turned"])


def test_records_that_were_not_packed_stay_as_they_are():
    sent = reply(ODD)
    assert packing.unpack(sent)["delta"] is sent["delta"]
    named = reply({packing.PACKED: ODD["whole"]})  # an array of that name, in numpy's own format
    assert packing.unpack(named)["delta"] is named["delta"]


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


GOOD = packing.pack(reply({"a": ODD["whole"], "b": ODD["a number"]}))["delta"][packing.PACKED].data


@given(st.data())
def test_no_blob_raises_what_a_server_would_not_catch(data):
    blob = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(blob) - 1))
        blob[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=5))
        blob = blob or bytearray(b"\0")
    try:
        found = packing.unpack(packed(bytes(blob)))
    except Exception:
        return
    assert sum(len(array.data) for array in found["delta"].values()) < len(blob) + 1024
