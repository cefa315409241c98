"""A node that announces pieces: those of others, too many, too deep, twice. SQL store, no HTTP.

Over TLS, with real nodes: tests/fedtune/transport/test_one_key_against_a_run.py.
"""

import time
from contextlib import suppress
from threading import Thread

import numpy as np
import pytest
from fastapi import HTTPException
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.superlink.servicer.fleet import fleet_handlers
from superlink_in_memory import (
    answer_honestly,
    content_of,
    id_of,
    ordered,
    packed,
    piece,
    pulled,
    taken_apart,
)

from fedtune.messages import message as ours
from fedtune.transport.flower import convert
from fedtune.transport.flower import ledger as ledgers
from fedtune.transport.flower.ledger import BusyError, Ledger, NotYoursError, Order

ABOUT = ConfigRecord({"round": 1, "base_hash": "b" * 64, "anchor_hash": "a" * 64})


def reply_of(number):
    """An honest reply; all nodes say the same about it."""
    return RecordDict({**content_of(number), "about": ABOUT})


def answer(link, order, number, content):
    metadata = link.metadata(order, link.nodes[number])
    link.send(link.nodes[number], metadata, *taken_apart(metadata, content))


def with_child(content):
    """What stands for a piece in a tree, with a child that it does not have."""
    return ObjectTree(object_id=content, children=[ObjectTree(object_id="0" * 64)])


def announce(link, order, number, *branches):
    """A reply of which nothing comes but its tree."""
    node = link.nodes[number]
    metadata = link.metadata(order, node)
    tree = ObjectTree(object_id=id_of(repr(branches).encode()), children=branches)
    return link.send(node, metadata, {}, tree, held_back=ledgers.hashes_of(tree))


def wide(count):
    return [ObjectTree(object_id=id_of(b"%d" % number)) for number in range(count)]


def refused(words):
    return pytest.raises(HTTPException, match=f"403: {words}")


def test_flower_itself_lets_a_node_spoil_what_another_is_about_to_send(sql):
    """Why there is a guard, and a nonce; should this fail, Flower has mended it."""
    _, orders = ordered(sql)
    announce(sql, orders[0], 0, with_child(ABOUT.object_id))
    with pytest.raises(ValueError, match="preregistered with different children"):
        answer(sql, orders[1], 1, reply_of(1))


def test_what_can_be_guessed_is_in_no_honest_reply(guarded, sql):
    ids, orders = ordered(sql)
    announce(sql, orders[0], 0, with_child(ABOUT.object_id))
    for number in (1, 2):
        answer(sql, orders[number], number, packed(reply_of(number)))
    assert pulled(sql, ids) == {1: 1.0, 2: 2.0}


@pytest.mark.parametrize("number", [0, 1])
def test_the_servers_own_orders_cannot_be_guessed(guarded, sql, number):
    """The same words to every node in every round, as in an order to reveal."""
    words = RecordDict({"order": ConfigRecord({"n": number})})
    _, orders = ordered(sql)
    announce(sql, orders[0], 0, with_child(words["order"].object_id), *wide(2))
    ids, orders = ordered(sql)
    for each in (1, 2):
        answer(sql, orders[each], each, packed(reply_of(each)))
    assert pulled(sql, ids) == {1: 1.0, 2: 2.0}


def test_a_piece_that_is_there_is_another_ones(guarded, sql):
    ids, orders = ordered(sql)
    answer(sql, orders[1], 1, packed(reply_of(1)))
    metadata = sql.metadata(orders[1], sql.nodes[1])
    theirs = taken_apart(metadata, packed(reply_of(1)))[1]
    own = sql.trees[sql.nodes[0]].children[0]
    anothers = sql.trees[sql.nodes[2]].children[0].children[0]
    for known in (own, anothers):
        with refused("this reply names a piece that is another's"):
            announce(sql, orders[0], 0, ObjectTree(object_id=known.object_id))
    announce(sql, orders[0], 0, theirs.children[0])  # under another nonce: of no use, and free
    assert pulled(sql, ids) == {1: 1.0}


def test_a_reply_is_in_no_more_pieces_than_its_order_and_one(guarded, sql):
    _, orders = ordered(sql)
    before = len(sql.state.object_store)
    with refused("this reply is in more than 6 pieces"):
        announce(sql, orders[0], 0, *wide(10_000))
    assert len(sql.state.object_store) == before
    announce(sql, orders[0], 0, *wide(5))
    assert len(sql.state.object_store) == before + 6


def test_after_a_large_order_a_reveal_may_be_answered_by_as_much(guarded, sql):
    """Two pieces of Flower's: an order to reveal is small, and what it asks for is not."""
    values = np.zeros(6 * 2**18, np.float32)
    content = RecordDict({"delta": ArrayRecord({"a": Array(values)})})
    node = sql.nodes[0]
    for kind, sent in (("train", content), ("train.reveal", RecordDict({"order": ABOUT}))):
        order = ours.Message(convert.from_flower(sent), node, kind, 60)
        sql.grid.push(order, most=10**7)
        order = sql.order_of(node)
        for each in ledgers.hashes_of(sql.trees[node]):
            sql.fetch(node, each)
    metadata = sql.metadata(order, node)
    pieces, tree = taken_apart(metadata, packed(content))
    assert len(pieces) == 6
    sql.send(node, metadata, pieces, tree)
    assert all(sql.state.object_store.get(each) for each in pieces)


def test_a_tree_that_is_deeper_or_names_a_piece_twice_is_no_replys(guarded, sql):
    _, orders = ordered(sql)
    chain = ObjectTree(object_id="1" * 64)
    for number in (2, 3, 4, 5):
        chain = ObjectTree(object_id=str(number) * 64, children=[chain])
    with refused("this reply is more than 5 pieces deep"):
        announce(sql, orders[0], 0, chain)
    with refused("this reply names a piece twice"):
        announce(sql, orders[0], 0, *wide(2), *wide(1))


def test_a_reply_goes_by_its_own_hash_and_alone(guarded, sql):
    _, orders = ordered(sql)
    node = sql.nodes[0]
    metadata = sql.metadata(orders[0], node)
    _, tree = taken_apart(metadata, packed(reply_of(0)))
    push = fleet_handlers.push_messages
    request = PushMessagesRequest(node=Node(node_id=node))
    for trees in ((), (tree, tree)):
        del request.message_object_trees[:]
        request.message_object_trees.extend(trees)
        with refused("a node pushes one reply at a time"):
            push(request, sql.state)
    message = request.messages_list.add()
    message.metadata.src_node_id = node
    message.metadata.reply_to_message_id = orders[0].metadata.message_id
    message.metadata.message_id = "9" * 64
    del request.message_object_trees[1:]
    with refused("a reply goes by the hash of its own tree"):
        push(request, sql.state)


def test_an_order_is_answered_once_and_the_same_again_is_only_told_again(guarded, sql):
    """Flower's node asks again when an answer is lost on its way."""
    ids, orders = ordered(sql)
    node = sql.nodes[0]
    metadata = sql.metadata(orders[0], node)
    pieces, tree = taken_apart(metadata, packed(reply_of(0)))
    first = sql.send(node, metadata, pieces, tree, held_back=pieces)
    before = len(sql.state.object_store)
    again = sql.send(node, metadata, pieces, tree, held_back=pieces)
    assert again == first
    for changed in (tree.object_id, "7" * 64):  # its own id with another tree, and another id
        other = ObjectTree(object_id=changed, children=wide(2))
        with refused("an order is answered once"):
            sql.send(node, metadata, {}, other, held_back=[changed])
    assert len(sql.state.object_store) == before
    sql.push(node, first.session_id, pieces)
    assert pulled(sql, ids) == {0: 0.0}


def test_what_flower_did_not_take_may_be_sent_again(guarded, sql, monkeypatch):
    ids, orders = ordered(sql)
    node = sql.nodes[0]
    metadata = sql.metadata(orders[0], node)
    parts = taken_apart(metadata, packed(reply_of(0)))
    store = type(sql.state).store_message_and_object_tree
    monkeypatch.setattr(
        type(sql.state), "store_message_and_object_tree", lambda *_: {}["the disk is full"]
    )
    with pytest.raises(KeyError):
        sql.send(node, metadata, *parts)
    monkeypatch.setattr(type(sql.state), "store_message_and_object_tree", store)
    sql.send(node, metadata, *parts)
    assert pulled(sql, ids) == {0: 0.0}


def test_no_one_sends_fetches_or_ends_what_is_anothers(guarded, sql):
    ids, orders = ordered(sql)
    alice, mallory = sql.nodes[0], sql.nodes[1]
    metadata = sql.metadata(orders[0], alice)
    pieces, tree = taken_apart(metadata, packed(reply_of(0)))
    answer_ = sql.send(alice, metadata, pieces, tree, held_back=pieces)
    for session in (answer_.session_id, ""):  # with none, Flower looks for one that fits
        with refused("a node pushes the pieces of its own replies"):
            sql.push(mallory, session, pieces)
    sql.push(alice, answer_.session_id, pieces)
    for hidden in (tree.object_id, sql.trees[alice].object_id):
        with refused("a node fetches the pieces of its own orders"):
            sql.fetch(mallory, hidden)
        confirm = ConfirmMessageReceivedRequest(
            node=Node(node_id=mallory), run_id=sql.run_id, message_object_id=hidden
        )
        with refused("a node answers the orders that it was given"):
            fleet_handlers.confirm_message_received(confirm, sql.state, sql.state.object_store)
    assert sql.fetch(alice, sql.trees[alice].object_id).object_available
    sql.push(alice, answer_.session_id, pieces)  # once more, as after a lost answer
    assert pulled(sql, ids) == {0: 0.0}


def test_a_reply_weighs_no_more_than_its_order_and_some_words(guarded, sql, monkeypatch):
    monkeypatch.setattr(ledgers, "ROOM_BYTES", 5_000)
    _, orders = ordered(sql)
    node = sql.nodes[0]
    fetched = [sql.fetch(node, each) for each in ledgers.hashes_of(sql.trees[node])]
    room = sum(len(each.object_content) for each in fetched) + 5_000
    chunk = piece("ArrayChunk", [], bytes(room))
    answer_ = announce(sql, orders[0], 0, ObjectTree(object_id=id_of(chunk)))
    with refused("this reply weighs more than any good one"):
        sql.push(node, answer_.session_id, {id_of(chunk): chunk})


def test_the_ledger_says_when_it_is_busy_and_forgets_what_has_expired():
    ledger, tree = Ledger(), ObjectTree(object_id="1" * 64)
    ledger.give(7, "order", Order(1, "train", time.time() + 60, {"2" * 64: 0}))
    assert ledger.announce(7, "order", tree) is None
    with pytest.raises(BusyError):
        ledger.announce(7, "order", tree)
    ledger.give(7, "old", Order(1, "train", time.time() - 1, {"3" * 64: 0}))
    ledger.give(7, "next", Order(1, "train", time.time() + 60, {"4" * 64: 0}))
    with pytest.raises(NotYoursError):
        ledger.announce(7, "old", tree)
    ledger.take_back(7, "old")
    assert len(ledger._orders[7]) == 2


def test_many_at_once_announce_one_reply_once():
    ledger, tree, taken = Ledger(), ObjectTree(object_id="1" * 64), []

    def announce_it():
        with suppress(BusyError):
            taken.append(ledger.announce(7, "order", tree))

    ledger.give(7, "order", Order(1, "train", time.time() + 60, {"2" * 64: 0}))
    threads = [Thread(target=announce_it) for _ in range(20)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert taken == [None]


def test_honest_nodes_are_heard_as_before(guarded, link):
    ids, orders = ordered(link)
    for number in (2, 0, 1):
        answer_honestly(link, orders[number], number)
    assert pulled(link, ids) == {0: 0.0, 1: 1.0, 2: 2.0}
