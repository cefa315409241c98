"""What a node says beside its reply, and what Flower makes of it: times, names, seconds of work.

Against the real SuperLink, its database and fedtune's checks, without its HTTP. Where fedtune's
checks are left out, one reply with a time of NaN ends the run: the first test holds the fact.
"""

import math
import time

import httpx
import pytest
from fastapi import HTTPException
from flwr.app.message import make_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.superlink.servicer.fleet import fleet_handlers
from superlink_in_memory import answer_honestly, content_of, ordered, pulled, taken_apart

from fedtune.transport.flower import pulling

NAN, INF = float("nan"), float("inf")


def answer(link, order, **said):
    metadata = link.metadata(order, link.nodes[0], **said)
    return link.send(link.nodes[0], metadata, *taken_apart(metadata, content_of(0)))


def test_flower_itself_fails_at_a_reply_of_no_time(sql):
    ids, orders = ordered(sql)
    answer(sql, orders[0], created_at=NAN)
    with pytest.raises(TypeError):  # HTTP 500 to the server of the run
        pulled(sql, ids)


@pytest.mark.parametrize(
    "said",
    [
        {"created_at": NAN},
        {"ttl": NAN},
        {"created_at": NAN, "ttl": NAN},
        {"created_at": INF, "ttl": -INF},
        {"created_at": time.time() + 1e6, "ttl": 1e-9},
        {"ttl": 1e300},
        {"group_id": "\x1b[2J\n"},
        {"src_task_id": 2**63, "dst_task_id": 2**63},
    ],
    ids=["created NaN", "ttl NaN", "both NaN", "infinite", "future", "for ever", "group", "tasks"],
)
def test_no_time_or_name_of_a_node_is_kept(guarded, sql, said):
    ids, orders = ordered(sql)
    answer(sql, orders[0], **said)
    for number in (1, 2):
        answer_honestly(sql, orders[number], number)
    assert pulled(sql, ids) == {0: 0.0, 1: 1.0, 2: 2.0}


@pytest.mark.parametrize("said", [{"message_type": "query"}, {"run_id": 7}])
def test_a_reply_is_of_the_run_and_kind_of_its_order(guarded, sql, said):
    ids, orders = ordered(sql)
    with pytest.raises(HTTPException, match="of the run and kind of its order"):
        answer(sql, orders[0], **said)
    for number in (1, 2):
        answer_honestly(sql, orders[number], number)
    assert pulled(sql, ids) == {1: 1.0, 2: 2.0}


@pytest.mark.parametrize("seconds", [NAN, INF, -1e300, 1e300])
def test_no_time_of_work_that_is_none_is_added_up(guarded, sql, seconds):
    _, orders = ordered(sql)
    metadata = sql.metadata(orders[0], sql.nodes[0])
    _, tree = taken_apart(metadata, content_of(0))
    envelope = make_message(metadata, content_of(0))  # with what belongs into the pieces
    envelope.metadata.__dict__["_message_id"] = tree.object_id
    request = PushMessagesRequest(
        node=Node(node_id=sql.nodes[0]),
        messages_list=[message_to_proto(envelope)],
        message_object_trees=[tree],
        clientapp_runtime_list=[seconds],
    )
    fleet_handlers.push_messages(request, sql.state)
    (run,) = sql.state.get_run_info(run_ids=[sql.run_id])
    assert run.clientapp_runtime == 0.0
    assert not request.messages_list[0].content.items


def test_a_reply_at_which_the_superlink_fails_is_that_clients_alone(link, monkeypatch):
    ids, orders = ordered(link)
    for number in range(3):
        answer_honestly(link, orders[number], number)
    ask = link.grid._puller._client.PullMessages

    def failing(request):
        status = {ids[0]: 500}.get(request.message_ids[0])
        if status is None:
            return ask(request)
        response = httpx.Response(status, request=httpx.Request("POST", "https://superlink"))
        raise httpx.HTTPStatusError("failed", request=response.request, response=response)

    monkeypatch.setattr(link.grid._puller, "_client", _With(link, failing))
    assert pulled(link, ids) == {0: "the SuperLink failed at its reply", 1: 1.0, 2: 2.0}


class _With:
    def __init__(self, link, pull):
        self.PullMessages, self._link = pull, link

    def __getattr__(self, name):
        return getattr(self._link, name)


def test_a_piece_that_lacks_is_asked_for_before_the_others(link):
    # Else each look at such a reply would carry all of it over again, to everyone's delay.
    ids, orders = ordered(link)
    metadata = link.metadata(orders[0], link.nodes[0])
    pieces, tree = taken_apart(metadata, content_of(0))
    held = [each for each, content in pieces.items() if content.startswith(b"ArrayChunk")]
    answered = link.send(link.nodes[0], metadata, pieces, tree, held_back=held)
    assert pulled(link, ids[:1]) == {}
    time.sleep(2 * pulling.FIRST_RETRY_S)
    asked = link.calls
    assert pulled(link, ids[:1], sweeps=1) == {}
    assert link.calls - asked == 1  # the one piece
    link.push(link.nodes[0], answered.session_id, {each: pieces[each] for each in held})
    time.sleep(4 * pulling.FIRST_RETRY_S)
    found = pulled(link, ids[:1])
    assert math.isclose(found[0], 0.0)
