"""Frames between a node's thin app and its worker: whole, or refused before they are read."""

import socket
import struct

import pytest

from fedtune.node.frames import MAX_WORDS_BYTES, FrameError, receive, send


@pytest.fixture
def ends():
    left, right = socket.socketpair()
    with left, right:
        yield left, right


def test_words_and_body_come_as_they_were_sent(ends):
    send(ends[0], {"kind": "train", "n": 1}, b"\x00\xff" * 1000)
    send(ends[0], {})
    assert receive(ends[1], max_bytes=2000) == ({"kind": "train", "n": 1}, b"\x00\xff" * 1000)
    assert receive(ends[1], max_bytes=0) == ({}, b"")


def test_what_is_too_large_is_not_read(ends):
    ends[0].sendall(struct.pack("<IQ", 2, 2**40) + b"{}")
    with pytest.raises(FrameError, match="at most 10 bytes"):
        receive(ends[1], max_bytes=10)
    ends[0].sendall(struct.pack("<IQ", MAX_WORDS_BYTES + 1, 0))
    with pytest.raises(FrameError, match="at most"):
        receive(ends[1], max_bytes=10)


@pytest.mark.parametrize("words", [b"[1]", b"{", b"\xff\xff"])
def test_words_are_an_object(ends, words):
    ends[0].sendall(struct.pack("<IQ", len(words), 0) + words)
    with pytest.raises(FrameError, match="words"):
        receive(ends[1], max_bytes=10)


def test_a_frame_that_is_cut_short_is_none(ends):
    ends[0].sendall(struct.pack("<IQ", 2, 5) + b"{}abc")
    ends[0].shutdown(socket.SHUT_WR)
    with pytest.raises(FrameError, match="after 3 of 5 bytes"):
        receive(ends[1], max_bytes=10)
