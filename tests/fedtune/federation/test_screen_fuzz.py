"""Random damage to an honest reply: it is refused, or it is read as exactly what it says.

Not proven here: damage that needs more than four steps.
"""

import io

import numpy as np
import pytest
import torch
from flwr.app import Array, Message, MetricRecord, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_federation import LAYOUT, toy_app

from fedtune.federation import wire
from fedtune.federation.local import LocalGrid
from fedtune.federation.screening.screen import RefusedError, screen

AGREEMENT = wire.Agreement("base", "tokenizer", "anchor")
DELTA = torch.linspace(-1, 1, 16)
NAMES = st.sampled_from(["a", "b", "c", "d", ""])
SHAPES = st.sampled_from([(2, 3), (3, 2), (6,), (4,), (2, 2), (), (0,), (10**15,), (2, 3, 1)])
WORDS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["base", "tokenizer", "anchor", 3]),
    st.lists(st.integers(0, 9), max_size=3),
)


def flip(data, at, value):
    at %= len(data) or 1
    return data[:at] + bytes([value]) + data[at + 1 :]


def cut(data, at, _):
    return data[: at % (len(data) + 1)]


def grow(data, at, value):
    at %= len(data) + 1
    return data[:at] + bytes([value]) * 3 + data[at:]


def claim(data, at, value):
    """Another header on the same numbers."""
    shape = [(2, 3), (3, 2), (6,), (10**15,), (1, 2, 3)][at % 5]
    descr = ["<f4", ">f4", "<f8", "|O", "<i4", "<f2", "|V4", "<U1"][value % 8]
    stream = io.BytesIO()
    words = {"descr": descr, "fortran_order": bool(at % 2), "shape": shape}
    np.lib.format.write_array_header_1_0(stream, words)
    return stream.getvalue() + data[128:]


@st.composite
def damage(draw):
    """One step of damage, as a function on a reply's content."""
    kind = draw(st.sampled_from(["bytes", "shape", "stype", "rename", "drop", "swap", "word"]))
    name, other = draw(NAMES), draw(NAMES)
    if kind == "bytes":
        change = draw(st.sampled_from([flip, cut, grow, claim]))
        # Half of the hits go into the header: the first 128 bytes of about 150.
        at, value = draw(st.integers(0, 160)), draw(st.integers(0, 255))
        return lambda content: on_array(content, name, data=lambda d: change(d, at, value))
    if kind == "shape":
        shape = draw(SHAPES)
        return lambda content: on_array(content, name, shape=lambda _: shape)
    if kind == "stype":
        return lambda content: on_array(content, name, stype=lambda s: s + "2")
    if kind == "word":
        key, word = draw(st.sampled_from(["round", "base_hash", "anchor_hash", "x"])), draw(WORDS)
        return lambda content: content.config_records["about"].__setitem__(key, word)
    return lambda content: on_names(content, kind, name, other)


def on_array(content, name, **changes):
    arrays = content.array_records[wire.DELTA]
    if name in arrays:
        parts = {key: getattr(arrays[name], key) for key in ("dtype", "shape", "stype", "data")}
        arrays[name] = Array(
            **{key: changes.get(key, lambda same: same)(old) for key, old in parts.items()}
        )


def on_names(content, kind, name, other):
    arrays = content.array_records[wire.DELTA]
    if name not in arrays:
        content["extra"] = MetricRecord()
    elif kind == "drop":
        del arrays[name]
    elif kind == "swap" and other in arrays:
        arrays[name], arrays[other] = arrays[other], arrays[name]
    else:
        arrays[other] = arrays.pop(name)


def plainly_read(content):
    """The reply as numpy's own reader has it, laid out by hand: what acceptance must mean."""
    assert set(content) == {"delta", "about", "metrics"}
    assert dict(content["about"]) | {"x": 0} == {
        "round": 3, "base_hash": "base", "tokenizer_hash": "tokenizer", "anchor_hash": "anchor",
        "x": 0,
    }  # fmt: skip
    arrays = content["delta"]
    assert sorted(arrays) == ["a", "b", "c"]
    values = [np.load(io.BytesIO(arrays[name].data), allow_pickle=False) for name in "abc"]
    assert [value.shape for value in values] == [(2, 3), (2, 3), (4,)]
    assert {value.dtype.str for value in values} == {"<f4"}
    return np.concatenate([value.ravel() for value in values])


def survives(steps, reasons):
    LocalGrid(toy_app(), 1)
    content = wire.train_reply(DELTA, LAYOUT, round_=3, agreement=AGREEMENT, train_loss=1.0)
    for step in steps:
        step(content)
    reply = Message(content, reply_to=Message(RecordDict(), 2, "train"))
    try:
        row, _ = screen(reply, LAYOUT, round_=3, agreement=AGREEMENT)
    except RefusedError as refusal:
        reasons.append(str(refusal))
        return
    assert row.dtype == torch.float32
    assert torch.isfinite(row).all()
    assert row.numpy().tobytes() == plainly_read(content).tobytes()
    reasons.append("")


def fuzz(examples, *, derandomize):
    reasons = []

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=derandomize,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(damage(), min_size=1, max_size=4))
    def check(steps):
        survives(steps, reasons)

    check()
    # Both ends are visited, or the fuzz proves nothing.
    read = reasons.count("")
    assert read > examples / 50
    assert len(reasons) - read > examples / 10
    assert max(map(len, reasons)) <= 300


def test_200_damaged_replies():
    fuzz(200, derandomize=True)


@pytest.mark.slow
def test_5000_damaged_replies():
    fuzz(5000, derandomize=False)


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None, database=None, derandomize=True)
def test_bytes_of_chance_are_refused(data):
    LocalGrid(toy_app(), 1)
    content = wire.train_reply(DELTA, LAYOUT, round_=3, agreement=AGREEMENT, train_loss=1.0)
    on_array(content, "a", data=lambda _: data)
    reply = Message(content, reply_to=Message(RecordDict(), 2, "train"))
    with pytest.raises(RefusedError):
        screen(reply, LAYOUT, round_=3, agreement=AGREEMENT)
