"""The records of a message as one blob that no one can guess.

A store that keeps pieces of messages under their hashes, in one place for all nodes, lets any node
spoil a piece that it can guess (Flower's does). So all of a message travels in one array, and every
piece into which a transport may cut it begins with a nonce. No hash that fedtune takes of a message
covers a nonce.
"""

from __future__ import annotations

import base64
import json
import math
import secrets
import struct
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from fedtune.messages.message import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

NONCE_BYTES = 32
FRAME_BYTES = 2**16  # a nonce and what follows it; Flower's pieces are whole frames
MAX_HEADER_BYTES = 2**23  # names and shapes: as JSON that is read, these grow tenfold
MAX_WORDS_BYTES = 2**20  # of words and metrics: these grow a hundredfold
MAX_ARRAYS = 2**16
MAX_RECORDS = 64
_WORDS = struct.Struct("<Q")
_SECTION = struct.Struct("<HQ")  # the lengths of an array record's name and of its safetensors
_FLOAT = struct.Struct("<d")
_KINDS: dict[str, tuple[type[ConfigRecord] | type[MetricRecord], tuple[type, ...]]] = {
    "words": (ConfigRecord, (bool, int, float, str, bytes)),
    "metrics": (MetricRecord, (int, float)),
}


def pack(content: RecordDict) -> bytes:
    """The records as one blob, under a new nonce."""
    return b"".join(_framed(_parts(content), secrets.token_bytes(NONCE_BYTES)))


def unpack(blob: bytes) -> RecordDict:
    """The records as they were before `pack`.

    Nothing of it is trusted: the arrays are of any names, dtypes and shapes, the words of any names
    and values that Flower's records may hold.

    Raises:
        ValueError: If the blob is cut short, names a record twice, has words that are no JSON or
            that Flower's records would not hold, or more words, arrays or records than any message.
        SafetensorError: If arrays are no safetensors, or their parts leave gaps or overlap.
    """
    frames = _Frames(blob)
    records = RecordDict(_read_words(_words(frames)))
    while frames.left:
        if len(records) >= MAX_RECORDS:
            raise ValueError(f"a packed message needs at most {MAX_RECORDS} records")
        name_bytes, blob_bytes = _SECTION.unpack(frames.take(_SECTION.size))
        name = frames.take(name_bytes).decode()
        if name in records:
            raise ValueError("a packed message names a record twice")
        records[name] = _arrays(frames.take(blob_bytes))
    return records


def framed_bytes(count: int) -> int:
    """What so many bytes weigh with their nonces."""
    return count + NONCE_BYTES * -(-count // (FRAME_BYTES - NONCE_BYTES))


def _parts(content: RecordDict) -> Iterator[bytes]:
    listed = list(_written_words(content))
    words = json.dumps(listed, ensure_ascii=False, separators=(",", ":")).encode()
    yield _WORDS.pack(len(words)) + words
    for name, record in content.array_records.items():
        blob = save({key: np.asarray(array.numpy(), order="C") for key, array in record.items()})
        yield _SECTION.pack(len(name.encode()), len(blob)) + name.encode()
        yield blob


def _written_words(content: RecordDict) -> Iterator[tuple[str, str, list[tuple[str, Any]]]]:
    """Name, kind and values of each record without arrays."""
    for kind, (of_kind, _) in _KINDS.items():
        for name, record in content.items():
            if type(record) is of_kind:
                yield name, kind, [(key, _written(value)) for key, value in record.items()]


def _written(value: object) -> object:
    """A value as JSON has it; what JSON has not stands in a mapping of one key."""
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": _FLOAT.pack(value).hex()}  # one NaN is not another: a hash covers each bit
    return [_written(item) for item in value] if isinstance(value, list) else value


def _read_words(text: bytes) -> Iterator[tuple[str, Any]]:
    try:
        found = _listed(json.loads(text.decode(), parse_constant=_refuse))
        if len(found) > MAX_RECORDS:
            raise ValueError(f"a packed message needs at most {MAX_RECORDS} records")
        if len({_text(name) for name, _, _ in found}) < len(found):
            raise ValueError("a packed message names a record twice")
        for name, kind, values in found:
            of_kind, scalars = _KINDS[kind]
            record = {_text(key): _read(value, scalars) for key, value in _listed(values)}
            if len(record) < len(values):
                raise ValueError("a packed record names a value twice")
            yield name, of_kind(record)
    except (TypeError, LookupError, RecursionError, struct.error) as error:
        raise ValueError(f"a packed message's words are none: {type(error).__name__}") from error


def _read(value: object, scalars: tuple[type, ...]) -> Any:  # noqa: ANN401
    """One value, or a list of values of one type; nothing that Flower's records would not hold."""
    if type(value) is not list:
        return _scalar(value, scalars)
    found = [_scalar(item, scalars) for item in value]
    if len({type(item) for item in found}) > 1:
        raise ValueError("a packed list needs values of one type")
    return found


def _scalar(value: object, scalars: tuple[type, ...]) -> object:
    if type(value) is dict:
        ((kind, text),) = value.items()
        value = _CODED[kind](text)
    if type(value) not in scalars:
        raise ValueError(f"a packed record holds no {type(value).__name__}")
    if type(value) is int and not -(2**63) <= value < 2**64:
        raise ValueError("a packed number needs 64 bits")
    return _text(value) if type(value) is str else value


def _text(value: object) -> str:
    """Text that may be written anywhere: a lone surrogate may not."""
    if type(value) is not str:
        raise ValueError(f"a packed name needs text; got {type(value).__name__}")
    value.encode()
    return value


def _listed(value: object) -> list[Any]:
    if type(value) is not list:
        raise ValueError(f"packed words need a list; got {type(value).__name__}")
    return value


def _float(text: str) -> float:
    (value,) = _FLOAT.unpack(bytes.fromhex(text))
    return float(value)


def _refuse(constant: str) -> float:
    raise ValueError(f"packed words are JSON, which has no {constant}")


_CODED: dict[str, Callable[[Any], bytes | float]] = {
    "bytes": partial(base64.b64decode, validate=True),
    "float": _float,
}


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
    try:
        arrays = sorted(load(blob).items())
    except (TypeError, LookupError) as error:  # a dtype that numpy has not
        raise ValueError(f"a packed record's arrays are none: {type(error).__name__}") from error
    return ArrayRecord({name: Array.of(values) for name, values in arrays})
