"""A node that speaks Flower's protocol and nothing else of Flower's, against the real SuperLink.

Only HTTP is left out. What a node does to the SuperLink's own store: test_hostile_announcements.py.
"""

import json

import pytest
from fastapi import HTTPException
from flwr.app import ConfigRecord, RecordDict
from superlink_in_memory import (
    answer_honestly,
    content_of,
    head_of,
    ordered,
    piece,
    pulled,
    taken_apart,
    tree_of,
)


def test_honest_nodes_are_heard_one_at_a_time(link):
    ids, orders = ordered(link)
    for number in (2, 0, 1):
        answer_honestly(link, orders[number], number)
    assert len(link.grid.pull(ids)) == 1
    assert pulled(link, ids[1:]) == {0: 1.0, 1: 2.0}


def test_orders_of_two_exchanges_do_not_lose_each_other(link):
    """A late node is introduced while a round gathers: each pulls its own orders alone."""
    ids, orders = ordered(link)
    for number in (0, 1, 2):
        answer_honestly(link, orders[number], number)
    assert pulled(link, ids[:2]) == {0: 0.0, 1: 1.0}
    assert pulled(link, ids[2:]) == {0: 2.0}


def test_each_is_asked_for_once_in_a_sweep_however_many_have_answered(link):
    ids, orders = ordered(link)
    for number in (0, 2):
        answer_honestly(link, orders[number], number)
    asked = []
    pull = link.grid._pull
    link.grid._pull = lambda message_id: asked.append(message_id) or pull(message_id)
    left = list(ids)
    while arrived := link.grid.pull(left):
        left.remove(arrived[0].reply_to)
    assert asked == ids
    assert left == [ids[1]]
    assert link.grid.pull(left) == []
    assert asked == [*ids, ids[1]]  # a new sweep


def test_a_line_that_is_down_is_no_ones_lie(link):
    ids, _ = ordered(link)

    def down(_):
        raise ConnectionError("the line is down")

    link.PullMessages = down
    with pytest.raises(ConnectionError):
        link.grid.pull(ids)


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


def test_a_node_gives_no_orders_and_speaks_for_no_one_else(guarded, link):
    # With the number of its neighbour a node could else have it train on an order of its own.
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
