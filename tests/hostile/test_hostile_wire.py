"""A node that speaks Flower's protocol and nothing else of Flower's, against the real SuperLink.

Only HTTP is left out. Not proven here: what a node does to the SuperLink's own process, which is
Flower's and stores whatever it is sent.
"""

import json
import logging
import resource
import time

import numpy as np
import pytest
from fastapi import HTTPException
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.superlink.servicer.fleet import fleet_handlers
from superlink_in_memory import SuperLink, head_of, piece, taken_apart, tree_of

from fedtune.federation.link import grid as grids
from fedtune.federation.link import pulling
from fedtune.federation.link.replies_alone import replies_alone

BOUND = 300_000


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(grids, "SWEEP_S", 0.0)
    logging.getLogger("flwr").setLevel(logging.CRITICAL)


@pytest.fixture
def link():
    return SuperLink(3)


def ordered(link, *, ttl=60):
    """One order to each node; their ids and what the nodes see of them."""
    ids, orders = [], []
    for number, node in enumerate(link.nodes):
        message = Message(
            RecordDict({"order": ConfigRecord({"n": number})}), node, "train", ttl=ttl
        )
        (message_id,) = link.grid.push_messages([message])
        link.grid.bound(message_id, BOUND)
        ids.append(message_id)
        orders.append(link.order_of(node))
    return ids, orders


def content_of(number):
    values = np.full((2, 3), number, np.float32)
    return RecordDict({"delta": ArrayRecord({"a": Array(values)})})


def answer_honestly(link, order, number):
    metadata = link.metadata(order, link.nodes[number])
    link.send(link.nodes[number], metadata, *taken_apart(metadata, content_of(number)))


def number_in(content):
    """What `content_of` put there; None if there is nothing of the kind."""
    return float(content["delta"]["a"].numpy()[0, 0]) if "delta" in content else None


def pulled(link, ids, *, sweeps=3):
    """What comes, by the order that it answers: a number, or an error's reason."""
    found, left = {}, list(ids)
    for _ in range(sweeps * len(ids)):
        for reply in link.grid.pull_messages(left):
            message_id = reply.metadata.reply_to_message_id
            left.remove(message_id)
            if reply.has_error():
                found[ids.index(message_id)] = reply.error.reason
            else:
                found[ids.index(message_id)] = number_in(reply.content)
    return found


def test_honest_nodes_are_heard_one_at_a_time(link):
    ids, orders = ordered(link)
    for number in (2, 0, 1):
        answer_honestly(link, orders[number], number)
    assert len(link.grid.pull_messages(ids)) == 1
    assert pulled(link, ids[1:]) == {0: 1.0, 1: 2.0}


def test_a_line_that_is_down_is_no_ones_lie(link):
    ids, _ = ordered(link)

    def down(_):
        raise ConnectionError("the line is down")

    link.PullMessages = down
    with pytest.raises(ConnectionError):
        link.grid.pull_messages(ids)


UNREADABLE = {
    "no JSON": lambda head, _: (piece("RecordDict", [], b"[not json"),),
    "no UTF-8": lambda head, _: (piece("RecordDict", [], b"\xff\xfe"),),
    "a list": lambda head, _: (piece("RecordDict", [], b"[1, 2]"),),
    "nested deeply": lambda head, _: (piece("RecordDict", [], b"[" * 200_000),),
    "a huge number": lambda head, _: (piece("RecordDict", [], b"{\"a\": " + b"9" * 9999 + b"}"),),
    "another kind": lambda head, _: (piece("ArrayRecord", [], b"{}"),),
    "no value": lambda head, _: (piece("ConfigRecord", [], b"\n\x05\n\x01a\x12\x00"),),
    "no protobuf": lambda head, _: (piece("ConfigRecord", [], b"\xff" * 9),),
    "its own child": lambda head, _: (piece("ArrayChunk", [], b"x"),),
}  # fmt: skip


@pytest.mark.parametrize("how", UNREADABLE)
def test_a_reply_that_cannot_be_read_is_its_senders_trouble_alone(link, how):
    ids, orders = ordered(link)
    metadata = link.metadata(orders[0], link.nodes[0])
    (inner,) = UNREADABLE[how](metadata, None)
    if not inner.startswith(b"RecordDict"):
        body = json.dumps({"about": tree_of(inner)[1].object_id}).encode()
        chain = (inner, record := piece("RecordDict", [inner], body))
    else:
        chain = (record := inner,)
    message = piece("Message", [record], head_of(metadata))
    link.send(link.nodes[0], metadata, *tree_of(*chain, message))
    for number in (1, 2):
        answer_honestly(link, orders[number], number)
    found = pulled(link, ids)
    assert (found[1], found[2]) == (1.0, 2.0)
    if how == "another kind":  # can be read, and is the screen's business
        assert found[0] is None
    else:
        assert found[0].startswith("unreadable: ")


@pytest.mark.parametrize("kind", ["RecordDict", "Array", "ArrayRecord", "ArrayChunk", "Evil"])
def test_a_piece_that_is_no_message_is_none(link, kind):
    ids, orders = ordered(link)
    metadata = link.metadata(orders[0], link.nodes[0])
    link.send(link.nodes[0], metadata, *tree_of(piece(kind, [], b"{}")))
    answer_honestly(link, orders[1], 1)
    found = pulled(link, ids)
    if kind == "Evil":  # the SuperLink itself takes no piece of a kind that it does not know
        assert found == {1: 1.0}
    else:
        assert found[0].startswith("unreadable: ")
        assert found[1] == 1.0


def test_no_one_answers_in_anothers_name(link):
    # The pieces say once more who answers what, and the SuperLink checks the envelope alone.
    ids, orders = ordered(link)
    true = link.metadata(orders[0], link.nodes[0])
    forged = link.metadata(orders[1], link.nodes[1])
    link.send(link.nodes[0], true, *taken_apart(forged, content_of(9)))
    answer_honestly(link, orders[1], 1)
    assert pulled(link, ids) == {0: 9.0, 1: 1.0}


def test_no_one_is_blamed_for_what_another_slips_in_between(link):
    # A node may push a message "from the SuperLink to the SuperLink", which then comes with the
    # next reply that anyone asks for.
    ids, orders = ordered(link)
    metadata = link.metadata(None, 1)
    message = piece("Message", [record := piece("RecordDict", [], b"[x")], head_of(metadata))
    link.send(link.nodes[0], metadata, *tree_of(record, message))
    for number in (0, 1, 2):
        answer_honestly(link, orders[number], number)
    assert pulled(link, ids) == {0: 0.0, 1: 1.0, 2: 2.0}


def test_a_node_gives_no_orders_and_speaks_for_no_one_else(link, monkeypatch):
    # With the number of its neighbour a node could else have it train on an order of its own.
    checked = replies_alone(fleet_handlers.push_messages)
    monkeypatch.setattr(fleet_handlers, "push_messages", checked)
    ids, orders = ordered(link)
    content = RecordDict({"order": ConfigRecord({"recipe": "mine"})})
    for metadata in (
        link.metadata(None, 1, dst_node_id=link.nodes[1]),  # an order "from the SuperLink"
        link.metadata(None, 1),  # a message to the server that answers nothing
        link.metadata(orders[1], link.nodes[1]),  # another's reply
    ):
        with pytest.raises(HTTPException, match="403"):
            link.send(link.nodes[0], metadata, *taken_apart(metadata, content))
    assert link.state.get_message_ins(node_id=link.nodes[1], limit=1) == []
    for number in (0, 1, 2):
        answer_honestly(link, orders[number], number)
    assert pulled(link, ids) == {0: 0.0, 1: 1.0, 2: 2.0}


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
    most = (BOUND + grids._ENVELOPE_BYTES) // (1000 + len(b"ArrayChunk  1000\0"))
    ids, orders = ordered(link)
    bomb(link, orders[0], times=most)
    (reply,) = link.grid.pull_messages(ids)
    assert len(reply.content["delta"]["a"].data) == 1000 * most
    ids, orders = ordered(link)
    bomb(link, orders[0], times=most + 1)
    (reply,) = link.grid.pull_messages(ids)
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
    link.grid.pull_messages(ids[:1])
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
    ids, orders = ordered(link)
    link.grid.bound(ids[0], 10**8)
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
    most = 16 + (BOUND + grids._ENVELOPE_BYTES) // 256
    root = piece("Message", [], head_of(metadata))
    pieces, tree = tree_of(root)
    for number in range(most):
        more, branch = tree_of(piece("ArrayChunk", [], b"%d" % number))
        pieces |= more
        tree.children.append(branch)
    link.send(link.nodes[0], metadata, pieces, tree)
    assert pulled(link, ids, sweeps=1)[0] == "its reply is in more pieces than the adapter has"
    assert link.calls < 20
