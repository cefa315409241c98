"""A few words and a body over a stream socket: how a node's thin app talks to its worker."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

MAX_WORDS_BYTES = 2**20
MAX_BYTES = 2**33  # of a body between the two
_LENGTHS = struct.Struct("<IQ")


class FrameError(ConnectionError):
    """The other side hung up in the middle, or says more than is allowed."""


def send(connection: socket.socket, words: dict[str, Any], body: bytes = b"") -> None:
    """Send one frame: lengths, words as JSON, body."""
    head = json.dumps(words).encode()
    connection.sendall(_LENGTHS.pack(len(head), len(body)) + head)
    connection.sendall(body)


def receive(connection: socket.socket, *, max_bytes: int) -> tuple[dict[str, Any], bytes]:
    """Receive one frame.

    Args:
        connection: A stream socket.
        max_bytes: The most that a body may weigh; more is not read.

    Raises:
        FrameError: If it is cut short, or too large, or its words are no JSON object.
    """
    words_bytes, body_bytes = _LENGTHS.unpack(_exactly(connection, _LENGTHS.size))
    if words_bytes > MAX_WORDS_BYTES or body_bytes > max_bytes:
        raise FrameError(f"a frame needs at most {max_bytes} bytes; got {words_bytes + body_bytes}")
    try:
        words = json.loads(_exactly(connection, words_bytes))
    except ValueError as error:
        raise FrameError(f"a frame's words are no JSON: {error}") from error
    if not isinstance(words, dict):
        raise FrameError(f"a frame's words need an object; got {type(words).__name__}")
    return words, bytes(_exactly(connection, body_bytes))


def _exactly(connection: socket.socket, count: int) -> bytearray:
    found = bytearray(count)
    view, at = memoryview(found), 0
    while at < count:
        got = connection.recv_into(view[at:])
        if got == 0:
            raise FrameError(f"the connection ended after {at} of {count} bytes")
        at += got
    return found
