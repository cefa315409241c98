"""A reply's pieces are weighed before they are unpacked, and no one waits for those that lack.

Against the real SuperLink without its HTTP. What a node does to the SuperLink's
own store: test_hostile_announcements.py.
"""

import json
import resource
import time

import pytest
from superlink_in_memory import (
    BOUND,
    answer_honestly,
    content_of,
    head_of,
    ordered,
    piece,
    pulled,
    taken_apart,
    tree_of,
)

from fedtune.messages.packing import framed_bytes
from fedtune.transport.flower import grid as grids
from fedtune.transport.flower import pulling


def bomb(link, order, *, times, chunk=1_000):
    """An array of one piece, named so many times: its sender sends little of it."""
    metadata = link.metadata(order, link.nodes[0])
    inner = piece("ArrayChunk", [], b"\0" * chunk)
    words = {"dtype": "float32", "shape": [1], "stype": "numpy.ndarray"}
    array = piece("Array", [inner], json.dumps({**words, "arraychunk_ids": [0] * times}).encode())
    table = json.dumps({"a": tree_of(array)[1].object_id}).encode()
    arrays = piece("ArrayRecord", [array], table)
    records = piece(
        "RecordDict", [arrays], json.dumps({"delta": tree_of(arrays)[1].object_id}).encode()
    )
    message = piece("Message", [records], head_of(metadata))
    link.send(link.nodes[0], metadata, *tree_of(inner, array, arrays, records, message))


def test_a_piece_that_is_named_a_million_times_is_not_unpacked(link):
    # 200 kB a time, 80,000 times: 16 GB from half a megabyte.
    ids, orders = ordered(link)
    bomb(link, orders[0], times=80_000, chunk=200_000)
    answer_honestly(link, orders[1], 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = pulled(link, ids)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB
    assert "is more than any good one" in found[0] or "unpacks to 16" in found[0]
    assert found[1] == 1.0


def test_what_unpacks_to_the_bound_is_taken_and_one_piece_more_is_not(link):
    # A piece of 1000 bytes weighs 18 more with its head "ArrayChunk  1000\0".
    most = (framed_bytes(BOUND) + grids._ENVELOPE_BYTES) // (1000 + len(b"ArrayChunk  1000\0"))
    ids, orders = ordered(link)
    bomb(link, orders[0], times=most)
    (reply,) = link.grid.pull(ids)
    assert len(reply.content["delta"]["a"].data) == 1000 * most
    ids, orders = ordered(link)
    bomb(link, orders[0], times=most + 1)
    (reply,) = link.grid.pull(ids)
    assert "unpacks to" in reply.error.reason


def test_a_piece_that_never_comes_holds_up_no_one(link):
    ids, orders = ordered(link)
    metadata = link.metadata(orders[0], link.nodes[0])
    pieces, tree = taken_apart(metadata, content_of(0))
    held = [each for each, content in pieces.items() if content.startswith(b"ArrayChunk")]
    link.send(link.nodes[0], metadata, pieces, tree, held_back=held)
    for number in (1, 2):
        answer_honestly(link, orders[number], number)
    started = time.monotonic()
    assert pulled(link, ids) == {1: 1.0, 2: 2.0}
    assert time.monotonic() - started < 5
    asked = link.calls
    link.grid.pull(ids[:1])
    assert link.calls == asked  # not due yet


def test_a_piece_that_comes_late_completes_its_reply(link):
    ids, orders = ordered(link)
    metadata = link.metadata(orders[0], link.nodes[0])
    pieces, tree = taken_apart(metadata, content_of(4))
    answer = link.send(link.nodes[0], metadata, pieces, tree, held_back=list(pieces))
    assert pulled(link, ids) == {}
    link.push(link.nodes[0], answer.session_id, pieces)
    time.sleep(pulling.FIRST_RETRY_S)
    assert pulled(link, ids) == {0: 4.0}


def test_too_much_is_refused_as_it_comes(link):
    ids, orders = ordered(link)
    metadata = link.metadata(orders[0], link.nodes[0])
    pieces, tree = {}, []
    for number in range(100):  # of 20 kB each: 15 of them are within the bound
        chunk = piece("ArrayChunk", [], bytes([number]) * 20_000)
        more, branch = tree_of(chunk, piece("Array", [chunk], b"{}"))
        pieces |= more
        tree.append(branch)
    (root,) = [*tree_of(piece("Message", [], head_of(metadata)))[0].values()]
    pieces |= (top := tree_of(root))[0]
    top[1].children.extend(tree)
    link.send(link.nodes[0], metadata, pieces, top[1])
    answer_honestly(link, orders[1], 1)
    asked = link.calls
    found = pulled(link, ids)
    assert found[0].endswith("(all) is more than any good one")
    assert found[1] == 1.0
    assert link.calls - asked < 60  # of the 201 pieces the first few


@pytest.mark.parametrize(
    ("kind", "most", "what"),
    [
        ("ConfigRecord", pulling.MAX_WORDS_BYTES, "words"),
        ("Array", pulling.MAX_TABLE_BYTES, "tables"),
    ],
)
def test_what_grows_in_memory_has_bounds_of_its_own(link, kind, most, what):
    # A protobuf record of empty items grows a hundredfold as objects, JSON tenfold.
    ids, orders = ordered(link, most=10**8)
    metadata = link.metadata(orders[0], link.nodes[0])
    record = piece(kind, [], b"\n\x00" * (most // 2))
    message = piece("Message", [record], head_of(metadata))
    link.send(link.nodes[0], metadata, *tree_of(record, message))
    assert pulled(link, ids)[0] == (
        f"its reply of more than {most} bytes ({what}) is more than any good one"
    )


def test_a_reply_in_more_pieces_than_the_bound_allows_is_not_even_asked_for(link):
    ids, orders = ordered(link)
    metadata = link.metadata(orders[0], link.nodes[0])
    most = 16 + (framed_bytes(BOUND) + grids._ENVELOPE_BYTES) // 256
    root = piece("Message", [], head_of(metadata))
    pieces, tree = tree_of(root)
    for number in range(most):
        more, branch = tree_of(piece("ArrayChunk", [], b"%d" % number))
        pieces |= more
        tree.children.append(branch)
    link.send(link.nodes[0], metadata, pieces, tree)
    asked = link.calls
    assert pulled(link, ids, sweeps=1)[0] == "its reply is in more pieces than the adapter has"
    assert link.calls - asked < 8  # three asked for, and those thrown away
