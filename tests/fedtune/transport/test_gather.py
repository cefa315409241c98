"""Whose reply counts, and that neither chance nor a client decides the order.

Who is asked at all: test_roster.
"""

import threading
import time
from copy import deepcopy

import pytest
import torch
from flwr import app as flower
from flwr.app import Metadata
from flwr.app.message import make_message
from toy_federation import (
    ANCHOR,
    ShuffledTransport,
    SilentTransport,
    honest,
    toy_app,
    toy_content,
    toy_recipe,
    toy_rounds,
)

from fedtune.messages import wire
from fedtune.messages.message import Error, Message, RecordDict
from fedtune.records.events import RunStoppedError
from fedtune.round.gather import Limits, gather
from fedtune.transport.flower.grid import SimulationTransport
from fedtune.transport.local import LocalTransport

RULES = [
    {"name": "mean"},
    {"name": "median", "f": 2},
    {"name": "trimmed_mean", "f": 2, "mixing": ["nnm"]},
    {"name": "krum", "f": 2},
    {"name": "multi_krum", "f": 2},
    {"name": "geometric_median", "f": 2},
    {"name": "centered_clipping", "f": 2},
]


@pytest.mark.parametrize("aggregator", RULES, ids=lambda rule: rule["name"])
def test_replies_in_any_order_give_the_same_bits(aggregator):
    recipe = toy_recipe(7, aggregator=aggregator, outer={"name": "nesterov"})
    expected, _ = toy_rounds(recipe, toy_app(), rounds=3)
    orders = set()
    for seed in range(5):
        transport = ShuffledTransport(toy_app(), 7, seed=seed)
        server, stepped = toy_rounds(recipe, toy_app(), transport=transport, rounds=3)
        assert stepped == [True] * 3
        assert torch.equal(server.outer.anchor, expected.outer.anchor)
        assert server.record.clients == expected.record.clients
        orders.add(tuple(transport.order))
    assert len(orders) == 5


class EchoTransport(LocalTransport):
    """Hands over each reply, then a second one to the same message with other numbers."""

    def pull(self, ids):
        replies = super().pull(ids)
        second = deepcopy(replies)
        for reply in second:
            if wire.DELTA in reply.content:
                for array in reply.content.array_records[wire.DELTA].values():
                    array.data = array.data[:-4] + b"\0\0\0\0"
        return [*replies, *second]


def test_a_second_reply_to_a_message_is_ignored():
    recipe = toy_recipe(3)
    expected, _ = toy_rounds(recipe, toy_app(), rounds=2)
    server, _ = toy_rounds(recipe, toy_app(), transport=EchoTransport(toy_app(), 3), rounds=2)
    assert torch.equal(server.outer.anchor, expected.outer.anchor)
    assert server.record.refused == {}
    assert server.record.repeated == {0: 1, 1: 1, 2: 1}


class StrangerTransport(LocalTransport):
    """Hands over replies to messages that were never sent, before the true ones."""

    def pull(self, ids):
        replies = super().pull(ids)
        strangers = deepcopy(replies)
        for stranger in strangers:
            stranger.reply_to = "never sent"
        return [*strangers, *replies]


def test_a_reply_to_no_message_of_ours_is_ignored():
    recipe = toy_recipe(3)
    expected, _ = toy_rounds(recipe, toy_app())
    server, _ = toy_rounds(recipe, toy_app(), transport=StrangerTransport(toy_app(), 3))
    assert torch.equal(server.outer.anchor, expected.outer.anchor)
    assert not server.record.repeated


class MaskedTransport(LocalTransport):
    """Replies bear the sender of the next client, as a liar might write."""

    def pull(self, ids):
        replies = super().pull(ids)
        for reply in replies:
            reply.node_id = 2 + (reply.node_id - 1) % 3
        return replies


def test_the_sender_is_who_was_asked_and_not_who_a_reply_says_it_is():
    recipe = toy_recipe(3)
    expected, _ = toy_rounds(recipe, toy_app())
    server, _ = toy_rounds(recipe, toy_app(), transport=MaskedTransport(toy_app(), 3))
    assert server.record.clients == expected.record.clients


def test_the_silent_are_refused_after_the_timeout_and_the_round_goes_on():
    # Clients send rows of 1, 2, 3, 4; client 1 (the twos) is never heard: (1 + 3 + 4) / 3.
    recipe = toy_recipe(4, engine="ray", round_timeout_s=0.4)
    app = toy_app(lambda message, client: toy_content(message, torch.full((16,), client + 1.0)))
    started = time.monotonic()
    server, stepped = toy_rounds(recipe, app, transport=SilentTransport(app, 4, silent=[1]))
    assert 0.4 <= time.monotonic() - started < 5
    assert stepped == [True]
    assert server.record.refused == {1: "it sent no reply"}
    assert torch.allclose(server.outer.anchor, ANCHOR + 8 / 3)


def test_a_round_in_which_no_one_answers_moves_nothing_and_ends():
    recipe = toy_recipe(3, engine="ray", round_timeout_s=0.2, max_retries=1)
    server, stepped = toy_rounds(
        recipe, toy_app(), transport=SilentTransport(toy_app(), 3, silent=[0, 1, 2])
    )
    assert stepped == [False]
    assert server.record.attempt == 1
    assert server.record.refused == dict.fromkeys(range(3), "it sent no reply")
    assert torch.equal(server.outer.anchor, ANCHOR)


def test_a_late_reply_does_not_count_for_the_next_round():
    def late(message, client):
        content = honest(message, client)
        if client == 2:
            content.config_records[wire.ABOUT]["round"] -= 1
        return content

    server, _ = toy_rounds(toy_recipe(3), toy_app(late))
    assert server.record.refused == {2: "it answers round 0; need round 1"}


def test_a_set_stop_leaves_the_gather():
    transport, stop = LocalTransport(toy_app(), 2), threading.Event()
    stop.set()
    message = Message(RecordDict(), 2, "train")
    with pytest.raises(RunStoppedError, match="interrupted"):
        gather(transport, {0: message}, limits=Limits(None, 10**6), stop=stop)


class BrokenRayGrid:
    """Answers as Flower's Ray engine does when a worker has died."""

    def pull_messages(self, message_ids):
        reason = "<class 'ray.exceptions.ActorDiedError'>:<'The actor died.'>"
        metadata = Metadata(1, "m", 2, 1, "order", "", 0.0, 60.0, "train")
        return [make_message(metadata=metadata, error=flower.Error(0, reason))]


def test_a_dead_ray_worker_stops_the_run():
    with pytest.raises(RunStoppedError, match="a Ray worker died, most often of too little memory"):
        SimulationTransport(BrokenRayGrid()).pull(["order"])


def test_a_reply_that_is_too_large_is_dropped_as_it_comes():
    # 16 numbers weigh 64 bytes and their headers; a good reply is far below a quarter of a MiB.
    def large(message, client):
        content = honest(message, client)
        if client == 1:
            content.config_records[wire.ABOUT]["more"] = "x" * 2**20
        return content

    server, stepped = toy_rounds(toy_recipe(3), toy_app(large))
    assert stepped == [True]
    assert "is more than any good one" in server.record.refused[1]
    assert set(server.record.clients) == {0, 2}


def test_an_error_of_a_clients_own_making_does_not_stop_the_run():
    class Crying(LocalTransport):
        def pull(self, ids):
            replies = super().pull(ids)
            for reply in replies:
                if reply.kind == "train" and reply.node_id == 3:
                    reply.content, reply.error = None, Error(0, "ActorDiedError")
            return replies

    server, stepped = toy_rounds(toy_recipe(3), toy_app(), transport=Crying(toy_app(), 3))
    assert stepped == [True]
    assert server.record.refused == {1: "the client failed: ActorDiedError"}


def test_a_client_that_cries_dead_worker_is_refused_like_any_other():
    def cry(message, client):
        if client == 1:
            raise RuntimeError("ray.exceptions.ActorDiedError: WorkerCrashedError")
        return honest(message, client)

    server, stepped = toy_rounds(toy_recipe(3), toy_app(cry))
    assert stepped == [True]
    assert "ActorDiedError" in server.record.refused[1]
