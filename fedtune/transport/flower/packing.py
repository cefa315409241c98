"""The records of a message as one blob that no one can guess, between server and nodes.

Flower keeps each piece of a message under its hash, in one store for all nodes, and lets any node
announce any hash with children of its choice: a piece that can be guessed can be spoiled before it
is sent. So all of a message travels in one array, and every piece into which Flower cuts that one
begins with a nonce; what stands above them names their hashes. No hash that fedtune takes of a
message covers a nonce.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterable, Iterator

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto
from safetensors.numpy import load, save

PACKED = "fedtune.packed"
NONCE_BYTES = 32
FRAME_BYTES = 2**16  # a nonce and what follows it; Flower's pieces are whole frames
MAX_HEADER_BYTES = 2**23  # names and shapes: as JSON that is read, these grow tenfold
MAX_WORDS_BYTES = 2**20  # of words and metrics: these grow a hundredfold
MAX_ARRAYS = 2**16
MAX_RECORDS = 64
_WORDS = struct.Struct("<Q")
_SECTION = struct.Struct("<HQ")  # the lengths of an array record's name and of its safetensors


def pack(content: RecordDict) -> RecordDict:
    """The same records as one array, under a new nonce."""
    blob = b"".join(_framed(_parts(content), secrets.token_bytes(NONCE_BYTES)))
    return RecordDict({PACKED: ArrayRecord({PACKED: Array("uint8", (len(blob),), PACKED, blob)})})


def unpack(content: RecordDict) -> RecordDict:
    """The records as they were before `pack`; what is not packed stays as it is.

    Nothing of it is trusted: the arrays are of any names, dtypes and shapes.

    Raises:
        ValueError: If the blob is cut short, names a record twice, or holds more words, arrays or
            records than any message has.
        DecodeError: If the words are no protobuf.
        SafetensorError: If arrays are no safetensors, or their parts leave gaps or overlap.
    """
    if not is_packed(content):
        return content
    frames = _Frames(content.array_records[PACKED][PACKED].data)
    records = dict(recorddict_from_proto(RecordDictProto.FromString(_words(frames))))
    while frames.left:
        if len(records) >= MAX_RECORDS:
            raise ValueError(f"a packed message needs at most {MAX_RECORDS} records")
        name_bytes, blob_bytes = _SECTION.unpack(frames.take(_SECTION.size))
        name = frames.take(name_bytes).decode()
        if name in records:
            raise ValueError("a packed message names a record twice")
        records[name] = _arrays(frames.take(blob_bytes))
    return RecordDict(records)


def is_packed(content: RecordDict) -> bool:
    """Whether a message came packed: its answer is then packed too."""
    record = content.get(PACKED)
    if len(content) != 1 or not isinstance(record, ArrayRecord) or list(record) != [PACKED]:
        return False
    return record[PACKED].stype == PACKED


def framed_bytes(count: int) -> int:
    """What so many bytes weigh with their nonces."""
    return count + NONCE_BYTES * -(-count // (FRAME_BYTES - NONCE_BYTES))


def _parts(content: RecordDict) -> Iterator[bytes]:
    arrays = {name: each for name, each in content.items() if isinstance(each, ArrayRecord)}
    others = RecordDict({name: each for name, each in content.items() if name not in arrays})
    words = recorddict_to_proto(others).SerializeToString()
    yield _WORDS.pack(len(words)) + words
    for name, record in arrays.items():
        blob = save({key: np.ascontiguousarray(array.numpy()) for key, array in record.items()})
        yield _SECTION.pack(len(name.encode()), len(blob)) + name.encode()
        yield blob


def _framed(parts: Iterable[bytes], nonce: bytes) -> Iterator[bytes | memoryview]:
    """The parts in one row, the nonce before every frame of them."""
    filled = 0
    for part in parts:
        rest = memoryview(part)
        while rest:
            if filled == 0:
                yield nonce
                filled = NONCE_BYTES
            piece, rest = rest[: FRAME_BYTES - filled], rest[FRAME_BYTES - filled :]
            yield piece
            filled = (filled + len(piece)) % FRAME_BYTES


class _Frames:
    """Reads what stands between the nonces."""

    def __init__(self, blob: bytes) -> None:
        self._view, self._at = memoryview(blob), 0
        self.left = len(blob) - NONCE_BYTES * -(-len(blob) // FRAME_BYTES)

    def take(self, count: int) -> bytes:
        """The next bytes.

        Raises:
            ValueError: If there are fewer.
        """
        if count > self.left:
            raise ValueError(f"a packed message is cut short: {self.left} of {count} bytes left")
        self.left -= count
        return b"".join(self._pieces(count))

    def _pieces(self, count: int) -> Iterator[memoryview]:
        while count:
            if self._at % FRAME_BYTES == 0:
                self._at += NONCE_BYTES
            room = min(count, FRAME_BYTES - self._at % FRAME_BYTES)
            yield self._view[self._at : self._at + room]
            self._at, count = self._at + room, count - room


def _words(frames: _Frames) -> bytes:
    (count,) = _WORDS.unpack(frames.take(_WORDS.size))
    if count > MAX_WORDS_BYTES:
        raise ValueError(f"a packed message needs at most {MAX_WORDS_BYTES} bytes of words")
    return frames.take(count)


def _arrays(blob: bytes) -> ArrayRecord:
    header_bytes = int.from_bytes(blob[:8], "little")
    if header_bytes > MAX_HEADER_BYTES:
        raise ValueError(f"a packed header needs at most {MAX_HEADER_BYTES} bytes")
    # JSON can write a key in many ways, and a brace in one: one for the header, one for each array.
    if blob.count(b"{", 8, 8 + header_bytes) > MAX_ARRAYS + 1:
        raise ValueError(f"a packed record needs at most {MAX_ARRAYS} arrays")
    arrays = sorted(load(blob).items())
    return ArrayRecord({name: Array(values) for name, values in arrays})
