"""Everything a reply must satisfy before any of it is used. A bad one is refused with a reason."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from fedtune.adapters.layout import Layout, check_same_names
from fedtune.messages import wire
from fedtune.messages.message import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MetricRecord,
    RecordDict,
)
from fedtune.plain import plain

NPY_MAGIC = b"\x93NUMPY\x01\x00"  # and version 1.0
NPY_HEADER_BYTES = 1024
FLOAT32 = np.dtype("<f4")
MAX_WORDS = 32
MAX_WORD_BYTES = 4096
MAX_METRICS = 64
MAX_REASON = 300  # a reason is kept each round, and a client has chosen what it quotes
MAX_METRIC_NAME = 64
MAX_TRACEBACK = 4096  # of an error's words, the last ones, are looked at
WORDS = (bool, int, float, str, bytes)  # what Flower's ConfigRecord carries, and lists of these
RECORDS: dict[str, type] = {
    wire.DELTA: ArrayRecord,
    wire.ABOUT: ConfigRecord,
    wire.METRICS: MetricRecord,
}


class RefusedError(Exception):
    """Why a reply does not count. The text goes into the log beside the client's number.

    Attributes:
        proves_fault: Whether no correct client of this version sends such a reply: a delta of other
            names or shapes although all hashes agree, a value that is not finite (a client checks
            its own), a reply that is not what its sender committed to. Who does so is one of the
            f. What an honest client can do too, or what can happen to it, proves nothing: silence,
            an error, another version, an old anchor, a gauge out of bounds, size.
    """

    def __init__(self, reason: str, *, proves_fault: bool = False) -> None:
        super().__init__(printable(reason))
        self.proves_fault = proves_fault


def printable(text: str) -> str:
    """The beginning of a stranger's text as one short line; what does not print becomes "?"."""
    return plain(text[:MAX_REASON])


def screen_content(
    content: RecordDict, layout: Layout, *, round_: int, agreement: wire.Agreement
) -> tuple[Tensor, dict[str, float]]:
    """Check what stands in a reply from end to end, and read it.

    Args:
        content: Of a client's reply (`content_of`), hostile until shown otherwise.
        layout: The anchor's.
        round_: The round that was asked for.
        agreement: The server's hashes.

    Returns:
        The delta as a finite float32 row of shape (d,), in the anchor's order whatever the
        reply's, and the client's metrics, which are for display alone.

    Raises:
        RefusedError: With the first reason found.
    """
    try:
        delta, about, metrics = _records(content)
        _check_words(about)
        if not _is_exactly(round_, answered := about.get("round")):
            raise RefusedError(f"it answers round {answered!r}; need round {round_}")
        if difference := agreement.difference(wire.read_agreement(about)):
            raise RefusedError(difference)
        return read_row(delta, layout), read_metrics(metrics)
    except RefusedError:
        raise
    except Exception as error:  # whatever a hostile reply manages to raise, it refuses itself
        raise RefusedError(f"unreadable: {type(error).__name__}: {error}") from error


def content_of(reply: Message) -> RecordDict:
    """What stands in a reply.

    Raises:
        RefusedError: If nothing does: it is an error, or neither.
    """
    if reply.error is not None:
        raise RefusedError(f"the client failed: {last_line(reply.error.reason or '')}")
    if reply.content is None:
        raise RefusedError("it holds neither an answer nor an error")
    return reply.content


def _is_exactly(need: object, got: object) -> bool:
    """Equal and of one type: True and 1.0 are no round 1."""
    return type(got) is type(need) and got == need


def _records(content: RecordDict) -> tuple[ArrayRecord, ConfigRecord, MetricRecord]:
    if set(content) != set(RECORDS):
        raise RefusedError(f"needs records {sorted(RECORDS)}; got {sorted(content)[:8]}")
    for name, kind in RECORDS.items():
        if type(content[name]) is not kind:
            raise RefusedError(f"record {name!r} needs {kind.__name__}; got {type(content[name])}")
    return (
        content.array_records[wire.DELTA],
        content.config_records[wire.ABOUT],
        content.metric_records[wire.METRICS],
    )


def _check_words(about: ConfigRecord) -> None:
    if len(about) > MAX_WORDS:
        raise RefusedError(f"needs at most {MAX_WORDS} words about itself; got {len(about)}")
    for key, value in about.items():
        if not _holds(key, value, WORDS):
            raise RefusedError(f"word {key!r} needs text or a number; got {type(value)}")
        if len(key) + wire.count_value(value) > MAX_WORD_BYTES:
            raise RefusedError(f"word {key[:32]!r} needs at most {MAX_WORD_BYTES} bytes")


def _holds(key: object, value: object, kinds: tuple[type, ...]) -> bool:
    """Whether Flower's own record would take this: a name, and one plain value or a list of them.

    It checks so when a record is built; a reply may have been built past the check.
    """
    items = value if type(value) is list else [value]
    return type(key) is str and all(type(item) in kinds for item in items)


def read_row(record: ArrayRecord, layout: Layout) -> Tensor:
    """Named arrays of a stranger as a finite float32 row of a layout.

    Raises:
        RefusedError: If names, shapes, dtypes or formats differ, or a value is not finite.
    """
    try:
        check_same_names(record, [name for name, _ in layout.shapes])
    except ValueError as error:
        raise RefusedError(str(error), proves_fault=True) from error
    row = torch.empty(layout.size, dtype=torch.float32)
    for name, target in layout.unflatten(row).items():
        values = read_array(name, record[name], tuple(target.shape))
        target.copy_(torch.from_numpy(values))
    return row


def read_array(
    name: str, array: Array, shape: tuple[int, ...], dtype: np.dtype = FLOAT32
) -> np.ndarray:
    """Read one array by the shape and dtype that it must have, as a copy.

    What its header claims allocates nothing.

    Raises:
        RefusedError: If it is anything else, or not finite.
    """
    body_bytes = math.prod(shape) * dtype.itemsize
    if len(array.data) > body_bytes + NPY_HEADER_BYTES:
        raise RefusedError(f"{name} needs at most {body_bytes} bytes; got {len(array.data)}")
    if array.stype != "numpy.ndarray":
        raise RefusedError(f"{name} needs numpy's format; got {array.stype[:32]!r}")
    if array.dtype != str(dtype):
        raise RefusedError(f"{name} needs {dtype}; got {array.dtype[:32]!r}")
    if repr(array.shape) != repr(shape):  # 2.0 and True are no axes
        reason = f"{name} needs shape {shape}; got {array.shape}"
        raise RefusedError(reason, proves_fault=True)
    body = _npy_body(name, array.data, shape, dtype)
    if len(body) != body_bytes:
        raise RefusedError(f"{name} needs {body_bytes} bytes of values; got {len(body)}")
    values = np.frombuffer(body, dtype=dtype).reshape(shape)
    if not np.isfinite(values).all():
        raise RefusedError(f"{name} holds a value that is not finite", proves_fault=True)
    return values.copy()  # torch wants memory that it may write


def _npy_body(name: str, data: bytes, shape: tuple[int, ...], dtype: np.dtype) -> memoryview:
    """What follows an npy header that is, to the letter, the one that numpy writes.

    numpy's own reader hands a header to Python's parser; a client's is compared, and never parsed.
    """
    descr = np.lib.format.dtype_to_descr(dtype)
    need = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    start = 10 + int.from_bytes(data[8:10], "little")
    if data[:8] != NPY_MAGIC or data[start - 1 : start] != b"\n":
        raise RefusedError(f"{name} needs an npy header of version 1.0; got {data[:16]!r}")
    if (got := data[10 : start - 1].rstrip(b" ")) != need.encode():
        raise RefusedError(f"{name} needs the npy header {need}; got {got[:96]!r}")
    return memoryview(data)[start:]


def read_metrics(record: MetricRecord) -> dict[str, float]:
    """A client's own figures: a bounded number of finite numbers, for display alone.

    What is no finite number is left out: metrics.jsonl is JSON, which knows none.

    Raises:
        RefusedError: If there are too many, or one is no number at all.
    """
    if len(record) > MAX_METRICS:
        raise RefusedError(f"needs at most {MAX_METRICS} metrics; got {len(record)}")
    for key, value in record.items():
        if not _holds(key, value, (int, float)):
            raise RefusedError(f"metric {key!r} needs a number; got {type(value)}")
    plain = {key: value for key, value in record.items() if isinstance(value, int | float)}
    return {
        printable(key)[:MAX_METRIC_NAME]: float(value)
        for key, value in plain.items()
        if math.isfinite(value)
    }


def read_evaluation(reply: Message) -> dict[str, float]:
    """A client's figures on its own held-out rows: its word, for display alone.

    Raises:
        RefusedError: If it failed, or gives no finite loss.
    """
    content = content_of(reply)
    try:
        if set(content) != {wire.METRICS}:
            raise RefusedError(f"needs the record {wire.METRICS!r}; got {sorted(content)[:8]}")
        figures = read_metrics(content.metric_records[wire.METRICS])
    except RefusedError:
        raise
    except Exception as error:  # as for any hostile reply
        raise RefusedError(f"unreadable: {type(error).__name__}: {error}") from error
    if "loss" not in figures:
        raise RefusedError("it gives no finite loss")
    return figures


def read_evaluations(
    replies: Mapping[int, Message],
) -> tuple[dict[int, dict[str, float]], dict[int, str]]:
    """The figures of those who gave any, by client, and why the others are refused."""
    figures, refused = {}, {}
    for client, reply in sorted(replies.items()):
        try:
            figures[client] = read_evaluation(reply)
        except RefusedError as refusal:
            refused[client] = str(refusal)
    return figures, refused


def last_line(reason: str) -> str:
    """The last line of a traceback says what was raised; the rest is for the client's own log."""
    lines = [line.strip() for line in reason[-MAX_TRACEBACK:].splitlines() if line.strip()]
    return printable(lines[-1]) if lines else "no reason given"
