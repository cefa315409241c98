"""Files of tensors that a stranger made: refused in one line, wherever one is read.

Not proven here: files that change while they are read, and a reply's arrays (test_packing.py, whose
cases are of the same kind).
"""

import json
import struct
import time

import pytest
import torch
from safetensors import SafetensorError

from fedtune.adapters import lora, tensor_files
from fedtune.adapters.layout import Layout
from fedtune.adapters.tensor_files import read_tensors, write_tensors
from fedtune.messages import packing
from fedtune.recipe import parse_recipe
from fedtune.records.checkpoint import FACTS, TENSORS, load_latest
from fedtune.records.folder import RunFolder
from fedtune.records.signed_chain import Line
from fedtune.round.screening.kept_replies import KeptReplies
from fedtune.training import inner_state
from fedtune.trust.adapter import check_adapter
from fedtune.trust.binding import Bound


def file_of(header, body=b"", *, length=None):
    words = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(words) if length is None else length) + words + body


def one(shape=(1,), offsets=(0, 4), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


TWICE = '{"a":%s,"a":%s}'
HOSTILE = {
    "empty": b"",
    "a length alone": file_of(b"", length=9),
    "a length of 2^63": file_of(b"{}", length=2**63),
    "no JSON": file_of(b"{"),
    "no UTF-8": file_of(b'{"\xff": 1}'),
    "half a surrogate": file_of(b'{"\\ud800": %s}' % json.dumps(one()).encode(), b"\0" * 4),
    "a list nested 100,000 deep": file_of(b'{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}"),
    "an overlap": file_of({"a": one(), "b": one()}, b"\0" * 4),
    "part of an overlap": file_of({"a": one((2,), (0, 8)), "b": one((1,), (4, 8))}, b"\0" * 8),
    "a gap": file_of({"a": one(offsets=(4, 8))}, b"\0" * 8),
    "an end before the beginning": file_of({"a": one(offsets=(4, 0))}, b"\0" * 4),
    "a beginning below zero": file_of({"a": one(offsets=(-4, 0))}, b"\0" * 4),
    "an axis below zero": file_of({"a": one((-1,))}, b"\0" * 4),
    "an axis of 1.0": file_of({"a": one((1.0,))}, b"\0" * 4),
    "a shape that overflows": file_of({"a": one((2**62, 2**62))}, b"\0" * 4),
    "a shape of more than there is": file_of({"a": one((9,), (0, 36))}, b"\0" * 4),
    "one name for two tensors": file_of(
        (TWICE % (json.dumps(one()), json.dumps(one(offsets=(4, 8))))).encode(), b"\0" * 8
    ),
    "a tail": file_of({"a": one()}, b"\0" * 9),
    "a type that is none": file_of({"a": one(dtype="F33")}, b"\0" * 4),
    "whole numbers": file_of({"a": one((1,), (0, 8), "I64")}, b"\0" * 8),
    "complex numbers": file_of({"a": one((1,), (0, 8), "C64")}, b"\0" * 8),
    "numbers of four bits": file_of({"a": one((2,), (0, 1), "F4")}, b"\0"),
    "truths": file_of({"a": one((4,), dtype="BOOL")}, b"\2\3\4\5"),
}


@pytest.fixture(params=HOSTILE)
def hostile(request):
    return HOSTILE[request.param]


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_it_is_refused_by_the_name_of_its_file(tmp_path, hostile):
    path = put(tmp_path / "a.safetensors", hostile)
    with pytest.raises(ValueError, match=r"a\.safetensors") as refused:
        read_tensors(path)
    assert "\n" not in str(refused.value)


def test_no_place_that_reads_one_raises_anything_else(tmp_path, hostile):
    put(tmp_path / "adapter" / "adapter_model.safetensors", hostile)
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors"):
        lora._stored(tmp_path / "adapter")
    recipe = parse_recipe({"aggregator": {"name": "mean"}, "federation": {"num_clients": 2}})
    last = Line(previous="", round=1, next_anchor="0" * 64)
    found = list(check_adapter(RunFolder(tmp_path), last, Bound("", None, [], {}), recipe))
    assert any("is no adapter" in each.text for each in found if each.wrong)
    put(tmp_path / "kept/round-0001/anchor.safetensors", hostile)
    with pytest.raises(ValueError, match=r"anchor\.safetensors"):
        KeptReplies(tmp_path / "kept").anchor(1)
    put(tmp_path / "checkpoints/round-0001" / TENSORS, hostile)
    facts = {"round": 1, "metrics_bytes": 0, "layout_hash": "", "revision": "", "seal": ""}
    put(tmp_path / "checkpoints/round-0001" / FACTS, json.dumps(facts).encode())
    with pytest.raises(ValueError, match="all 1 checkpoints are damaged"):
        load_latest(tmp_path / "checkpoints")


def test_a_packed_reply_of_it_raises_what_a_server_catches(hostile):
    words = struct.pack("<Q", 2) + b"[]" + struct.pack("<HQ", 1, len(hostile)) + b"d" + hostile
    blob = b"".join(bytes(part) for part in packing._framed([words], b"n" * 32))
    if hostile in (HOSTILE["whole numbers"], HOSTILE["complex numbers"], HOSTILE["truths"]):
        assert len(packing.unpack(blob)["d"]) == 1  # the screen judges them, by their type
        return
    with pytest.raises((ValueError, SafetensorError)):
        packing.unpack(blob)


def test_a_header_of_a_hundred_megabytes_is_not_read(tmp_path):
    path = tmp_path / "a.safetensors"
    with path.open("wb") as stream:
        stream.write((10**8).to_bytes(8, "little"))
        stream.truncate(10**8 + 8)
    began = time.monotonic()
    with pytest.raises(ValueError, match="its header needs at most 8388608 bytes"):
        read_tensors(path)
    assert time.monotonic() - began < 1


def test_more_tensors_than_any_adapter_has_are_not_made(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_files, "MAX_TENSORS", 3)
    none = one((0,), (0, 0))
    three = put(tmp_path / "three", file_of({str(number): none for number in range(3)}))
    assert len(read_tensors(three)) == 3
    four = put(tmp_path / "four", file_of({str(number): none for number in range(4)}))
    with pytest.raises(ValueError, match="four needs at most 3 tensors"):
        read_tensors(four)


def test_what_was_written_is_read_to_the_bit(tmp_path):
    draw = torch.Generator().manual_seed(0)
    tensors = {f"layer.{k}.lora_A.weight": torch.randn(3, 5, generator=draw) for k in range(4)}
    tensors["half"] = torch.ones(2, dtype=torch.bfloat16)
    write_tensors(tensors, tmp_path / "a")
    found = read_tensors(tmp_path / "a")
    assert Layout.of(found) == Layout.of(tensors)
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    steps = {0: {"step": torch.tensor(3), "exp_avg": torch.ones(2)}}  # a whole number among them
    inner_state.save(steps, tmp_path / "states", round_=1, keep=1)
    assert inner_state.load(tmp_path / "states", before=2)[0]["step"] == 3
