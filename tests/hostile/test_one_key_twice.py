"""Two connections of one key at once: the same order, the same reply, two replies to one order.

Threads against Flower's own handlers and database behind fedtune's checks, without its HTTP.
"""

from functools import partial
from threading import Barrier, Thread

import pytest
from fastapi import HTTPException
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.superlink.servicer.fleet import fleet_handlers
from superlink_in_memory import answer_honestly, content_of, ordered, pulled, taken_apart

from fedtune.transport.flower.ledger import BusyError, Ledger, NotYoursError, Order, hashes_of

AT_ONCE, TIMES = 4, 5


def together(calls):
    """What each call returned or raised; all are begun at the same moment."""
    ready, found = Barrier(len(calls)), [None] * len(calls)

    def run(place, call):
        ready.wait(30)
        try:
            found[place] = call()
        except Exception as error:
            found[place] = error

    threads = [Thread(target=run, args=each) for each in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def reply_of(link, order, number):
    """A reply of node 0 to its order, ready to be sent: its metadata, pieces and tree."""
    metadata = link.metadata(order, link.nodes[0])
    return metadata, *taken_apart(metadata, content_of(number))


def statuses(found):
    return [each.status_code if isinstance(each, HTTPException) else type(each) for each in found]


@pytest.fixture(params=range(TIMES))
def asked(request, guarded, sql):
    """Orders to three nodes, as often as a race may end otherwise."""
    return sql, *ordered(sql)


def test_the_same_reply_pushed_at_once_counts_once(asked):
    link, ids, orders = asked
    said = reply_of(link, orders[0], 7)
    found = together([lambda: link.send(link.nodes[0], *said)] * AT_ONCE)
    # One announcement is taken; the others hear the same answer, or that it is being taken.
    refused = [each for each in found if isinstance(each, Exception)]
    assert len(refused) < AT_ONCE
    assert set(statuses(refused)) <= {503}, found
    for number in (1, 2):
        answer_honestly(link, orders[number], number)
    assert pulled(link, ids) == {0: 7.0, 1: 1.0, 2: 2.0}


def test_of_two_replies_to_one_order_one_is_taken(asked):
    link, ids, orders = asked
    replies = [reply_of(link, orders[0], number) for number in (7, 8)]
    found = together([lambda said=said: link.send(link.nodes[0], *said) for said in replies])
    refused = [each for each in found if isinstance(each, Exception)]
    assert statuses(refused) == [403], found
    for number in (1, 2):
        answer_honestly(link, orders[number], number)
    heard = pulled(link, ids)
    assert heard.pop(0) == (8.0 if isinstance(found[0], Exception) else 7.0)
    assert heard == {1: 1.0, 2: 2.0}


def test_two_who_ask_at_once_get_no_order_that_is_not_their_keys(asked):
    link, _, _ = asked
    _, orders = ordered(link)  # taken already; what is asked for again is answered with nothing new
    request = PullMessagesRequest(node=Node(node_id=link.nodes[0]))

    def pull():
        return fleet_handlers.pull_messages(request, link.state, link.state.object_store)

    for answer in together([pull] * AT_ONCE):
        given = {order.metadata.message_id for order in answer.messages_list}
        assert given <= {orders[0].metadata.message_id}


@pytest.mark.parametrize("_", range(50))
def test_a_ledger_takes_one_of_many_announcements_and_each_piece_once(_):
    ledger = Ledger()
    ledger.give(1, "order", Order(7, "train", 1e18, {f"{k}": 1000 for k in range(9)}))
    trees = [ObjectTree(object_id=f"{number:064x}") for number in range(AT_ONCE)]
    found = together([partial(ledger.announce, 1, "order", tree) for tree in trees])
    (taken,) = [tree for tree, each in zip(trees, found, strict=True) if each is None]
    assert {type(each) for each in found if each is not None} == {NotYoursError}
    again = together([partial(ledger.announce, 1, "order", taken)] * AT_ONCE)
    assert {type(each) for each in again} == {BusyError}
    ledger.settle(1, "order", PushMessagesResponse(objects_to_push=hashes_of(taken)))
    admitted = together([partial(ledger.admit, 1, taken.object_id, 10)] * AT_ONCE)
    assert admitted == [True] * AT_ONCE  # each may bring it; Flower keeps one
    ledger.store(1, taken.object_id)
    assert ledger.admit(1, taken.object_id, 10) is False
