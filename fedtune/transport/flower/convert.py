"""Messages of ours as Flower's, and back: one for one, and nothing of them is read."""

from __future__ import annotations

from typing import Any

from flwr import app as flower

from fedtune.messages import packing
from fedtune.messages.message import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)

PACKED = "fedtune.packed"  # name of the one record, its one array, and its format


def to_flower(content: RecordDict) -> flower.RecordDict:
    """The same records as Flower's.

    Raises:
        TypeError, ValueError: If one holds what Flower's would not.
    """
    return flower.RecordDict({name: _record(record) for name, record in content.items()})


def from_flower(content: flower.RecordDict) -> RecordDict:
    """Flower's records as ours; a stranger may have written them."""
    return RecordDict({name: _ours(record) for name, record in content.items()})


def packed(content: RecordDict) -> flower.RecordDict:
    """The records in one array, under a new nonce."""
    return blob_to_flower(packing.pack(content))


def blob_to_flower(blob: bytes) -> flower.RecordDict:
    """What `packing.pack` made, as Flower carries it."""
    array = flower.Array("uint8", (len(blob),), PACKED, blob)
    return flower.RecordDict({PACKED: flower.ArrayRecord({PACKED: array})})


def unpacked(content: flower.RecordDict) -> RecordDict:
    """The records before `packed`; what is not packed stays as it is.

    Raises:
        ValueError, SafetensorError: As `packing.unpack` does.
    """
    blob = blob_of(content)
    return from_flower(content) if blob is None else packing.unpack(blob)


def blob_of(content: flower.RecordDict) -> bytes | None:
    """The blob of a message that came packed; None if it did not."""
    record = content.get(PACKED)
    if len(content) != 1 or not isinstance(record, flower.ArrayRecord) or list(record) != [PACKED]:
        return None
    array = record[PACKED]
    return array.data if array.stype == PACKED else None


def order_to_flower(message: Message, *, pack: bool) -> flower.Message:
    """An order as Flower's grid takes it."""
    content = packed(message.records) if pack else to_flower(message.records)
    return flower.Message(content, message.node_id, message.kind, ttl=message.ttl_s)


def order_from_flower(message: flower.Message) -> Message:
    """An order as Flower's ClientApp gets it."""
    content = unpacked(message.content)
    return Message(content, message.metadata.dst_node_id, message.metadata.message_type)


def reply_from_flower(reply: flower.Message) -> Message:
    """A reply as Flower's grid hands it over; what is neither content nor error stays so.

    Raises:
        Exception: Whatever a hostile reply manages to raise.
    """
    metadata = reply.metadata
    made = Message(
        None,
        metadata.src_node_id,
        metadata.message_type,
        id=metadata.message_id,
        reply_to=metadata.reply_to_message_id,
    )
    if reply.has_error():
        made.error = Error(reply.error.code, reply.error.reason)
    elif reply.has_content():
        made.content = unpacked(reply.content)
    return made


def array_from_flower(array: flower.Array) -> Array:
    """One array; a stranger may have written it."""
    return Array(array.dtype, array.shape, array.stype, array.data)


def _record(record: Any) -> Any:  # noqa: ANN401
    if isinstance(record, ArrayRecord):
        return flower.ArrayRecord({name: _array(each) for name, each in record.items()})
    if isinstance(record, ConfigRecord):
        return flower.ConfigRecord(dict(record))
    return flower.MetricRecord(dict(record))


def _array(array: Array) -> flower.Array:
    return flower.Array(array.dtype, array.shape, array.stype, array.data)


def _ours(record: Any) -> Any:  # noqa: ANN401
    if isinstance(record, flower.ArrayRecord):
        return ArrayRecord({key: array_from_flower(array) for key, array in record.items()})
    if isinstance(record, flower.ConfigRecord):
        return ConfigRecord(record)
    return MetricRecord(record)
