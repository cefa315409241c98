"""A good reply as plain data that may be spoilt at will, and how it becomes a message.

The layout is that of LoRA, r=2, on the query and value projections of a one-layer Llama of width
32 with two key heads: names and shapes as PEFT gives them, 224 numbers.
"""

import hashlib
from dataclasses import dataclass, field

import numpy as np

from fedtune.adapters.layout import Layout
from fedtune.messages.message import (
    Array,
    ArrayRecord,
    ConfigRecord,
    MetricRecord,
    RecordDict,
)

BLOCK = "base_model.model.model.layers.0.self_attn"
SHAPES = {
    f"{BLOCK}.q_proj.lora_A.weight": (2, 32),
    f"{BLOCK}.q_proj.lora_B.weight": (32, 2),
    f"{BLOCK}.v_proj.lora_A.weight": (2, 32),
    f"{BLOCK}.v_proj.lora_B.weight": (16, 2),
}
LAYOUT = Layout(tuple(sorted(SHAPES.items())))
BASE = hashlib.sha256(b"the base model").hexdigest()
TOKENIZER = hashlib.sha256(b"the tokenizer").hexdigest()


@dataclass
class Values:
    """One array: the words about it, its npy header, and the bytes of its numbers."""

    words: dict
    header: bytes
    body: bytes


@dataclass(repr=False)
class Reply:
    """What a client answers, before it is a message."""

    arrays: dict
    words: dict
    metrics: dict
    records: list = field(default_factory=lambda: ["delta", "about", "metrics"])
    extra: dict = field(default_factory=dict)
    error: object = None
    envelope: str = "one reply"
    broken: list = field(default_factory=list)

    def __repr__(self):
        return f"Reply({', '.join(self.broken)})"

    def _repr_pretty_(self, printer, _):
        printer.text(repr(self))  # hypothesis would write out every byte


def npy_text(shape, descr="'<f4'", fortran=False):
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape!r}, }}"


def npy_header(text, version=(1, 0), pad=True):
    """An npy header by the format's own page: magic, version, length, text, spaces, newline."""
    raw = text.encode("latin-1") if isinstance(text, str) else text
    if pad:
        raw += b" " * (-(len(raw) + 11) % 64) + b"\n"
    width = 2 if version[0] < 2 else 4
    return b"\x93NUMPY" + bytes(version) + len(raw).to_bytes(width, "little") + raw


def good_reply(order, numbers):
    """An honest reply to an order.

    Args:
        order: The words of the server's order.
        numbers: Float32, shape (224,).
    """
    arrays, at = {}, 0
    for name, shape in LAYOUT.shapes:
        count = shape[0] * shape[1]
        words = {"dtype": "float32", "shape": shape, "stype": "numpy.ndarray"}
        body = np.ascontiguousarray(numbers[at : at + count], "<f4").tobytes()
        arrays[name] = Values(words, npy_header(npy_text(shape)), body)
        at += count
    hashes = {key: order[key] for key in ("base_hash", "tokenizer_hash", "anchor_hash")}
    words = {"round": order["round"], **hashes}
    return Reply(arrays, words, {"train_loss": 1.5, "entropy": 0.25})


def forced(kind, pairs):
    """A record with anything in it."""
    return kind(pairs)


def as_array(values):
    if not isinstance(values, Values):
        return values
    return Array(**values.words, data=values.header + values.body)


def as_content(reply):
    """The reply's records, in its order and under its names."""
    arrays = {name: as_array(values) for name, values in reply.arrays.items()}
    made = {
        "delta": forced(ArrayRecord, arrays),
        "about": forced(ConfigRecord, reply.words),
        "metrics": forced(MetricRecord, reply.metrics),
    }
    return RecordDict({name: made[name] for name in reply.records} | reply.extra)


def as_message(reply, order):
    """The answer to a message of the server's."""
    message = order.reply(as_content(reply))
    if reply.error is not None or reply.envelope == "neither":
        message.content, message.error = None, reply.error
    return message
