"""A reply as bytes that do not depend on the order of its names: what is hashed of it."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator

from fedtune.messages.message import Array, RecordDict

_DOMAIN = b"fedtune: a reply, version 1"


def hash_reply(reply: RecordDict) -> str:
    """SHA-256 of a reply, in hex: the same at the node that sends it and at the server.

    Raises:
        TypeError: If a record holds what Flower's would not.
    """
    return hash_parts((_DOMAIN, *parts_of(reply)))


def hash_parts(parts: Iterable[bytes]) -> str:
    """SHA-256 over parts, each behind its length: cut elsewhere, they hash otherwise."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(struct.pack("<Q", len(part)))
        digest.update(part)
    return digest.hexdigest()


def parts_of(reply: RecordDict) -> Iterator[bytes]:
    """All of a reply as parts, in an order of their own; every bit of every value counts.

    Raises:
        TypeError: If a record holds what Flower's would not.
    """
    yield b"%d" % len(reply)
    for name in sorted(reply):
        record = reply[name]
        yield from (_bytes(name), type(record).__name__.encode(), b"%d" % len(record))
        for key in sorted(record):
            yield _bytes(key)
            yield from _value(record[key])


def _value(value: object) -> Iterator[bytes]:
    """One value with its kind: 1, True, 1.0 and "1" are four."""
    yield type(value).__name__.encode()
    if isinstance(value, Array):
        yield from (value.dtype.encode(), value.stype.encode(), b"%d" % len(value.shape))
        yield from (repr(axis).encode() for axis in value.shape)
        yield value.data
    elif isinstance(value, list):
        yield b"%d" % len(value)
        for item in value:
            yield from _value(item)
    elif isinstance(value, bool | int):
        yield b"%x" % value
    elif isinstance(value, float):
        yield struct.pack("<d", value)  # every bit: -0.0 is not 0.0, and one NaN not another
    elif isinstance(value, str):
        yield _bytes(value)
    elif isinstance(value, bytes):
        yield value
    else:
        raise TypeError(f"a reply holds no {type(value).__name__}")


def _bytes(text: str) -> bytes:
    """UTF-8; a lone surrogate, which a stranger may write, too."""
    return text.encode("utf-8", "surrogatepass")
