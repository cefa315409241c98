"""Whose reply counts, and that neither chance nor a client decides the order.

Who is asked at all: test_roster.
"""

import threading
import time
from copy import deepcopy

import pytest
import torch
from flwr.app import Error, Message, RecordDict
from toy_federation import (
    ANCHOR,
    ShuffledGrid,
    SilentGrid,
    honest,
    toy_app,
    toy_content,
    toy_recipe,
    toy_rounds,
)

from fedtune.messages import wire
from fedtune.records.events import RunStoppedError
from fedtune.transport.gather import Limits, gather
from fedtune.transport.local import LocalGrid

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
        grid = ShuffledGrid(toy_app(), 7, seed=seed)
        strategy, stepped = toy_rounds(recipe, toy_app(), grid=grid, rounds=3)
        assert stepped == [True] * 3
        assert torch.equal(strategy.outer.anchor, expected.outer.anchor)
        assert strategy.record["clients"] == expected.record["clients"]
        orders.add(tuple(grid.order))
    assert len(orders) == 5


class EchoGrid(LocalGrid):
    """Hands over each reply, then a second one to the same message with other numbers."""

    def pull_messages(self, message_ids):
        replies = super().pull_messages(message_ids)
        second = deepcopy(replies)
        for reply in second:
            if wire.DELTA in reply.content:
                for array in reply.content.array_records[wire.DELTA].values():
                    array.data = array.data[:-4] + b"\0\0\0\0"
        return [*replies, *second]


def test_a_second_reply_to_a_message_is_ignored():
    recipe = toy_recipe(3)
    expected, _ = toy_rounds(recipe, toy_app(), rounds=2)
    strategy, _ = toy_rounds(recipe, toy_app(), grid=EchoGrid(toy_app(), 3), rounds=2)
    assert torch.equal(strategy.outer.anchor, expected.outer.anchor)
    assert strategy.record["refused"] == {}
    assert strategy.record["repeated"] == {"0": 1, "1": 1, "2": 1}


class StrangerGrid(LocalGrid):
    """Hands over replies to messages that were never sent, before the true ones."""

    def pull_messages(self, message_ids):
        replies = list(super().pull_messages(message_ids))
        strangers = deepcopy(replies)
        for stranger in strangers:
            stranger.metadata.__dict__["_reply_to_message_id"] = "never sent"
        return [*strangers, *replies]


def test_a_reply_to_no_message_of_ours_is_ignored():
    recipe = toy_recipe(3)
    expected, _ = toy_rounds(recipe, toy_app())
    strategy, _ = toy_rounds(recipe, toy_app(), grid=StrangerGrid(toy_app(), 3))
    assert torch.equal(strategy.outer.anchor, expected.outer.anchor)
    assert "repeated" not in strategy.record


class MaskedGrid(LocalGrid):
    """Replies bear the sender of the next client, as a liar might write."""

    def pull_messages(self, message_ids):
        replies = list(super().pull_messages(message_ids))
        for reply in replies:
            reply.metadata.__dict__["_src_node_id"] = 2 + (reply.metadata.src_node_id - 1) % 3
        return replies


def test_the_sender_is_who_was_asked_and_not_who_a_reply_says_it_is():
    recipe = toy_recipe(3)
    expected, _ = toy_rounds(recipe, toy_app())
    strategy, _ = toy_rounds(recipe, toy_app(), grid=MaskedGrid(toy_app(), 3))
    assert strategy.record["clients"] == expected.record["clients"]


def test_the_silent_are_refused_after_the_timeout_and_the_round_goes_on():
    # Clients send rows of 1, 2, 3, 4; client 1 (the twos) is never heard: (1 + 3 + 4) / 3.
    recipe = toy_recipe(4, engine="ray", round_timeout_s=0.4)
    app = toy_app(lambda message, client: toy_content(message, torch.full((16,), client + 1.0)))
    started = time.monotonic()
    strategy, stepped = toy_rounds(recipe, app, grid=SilentGrid(app, 4, silent=[1]))
    assert 0.4 <= time.monotonic() - started < 5
    assert stepped == [True]
    assert strategy.record["refused"] == {"1": "it sent no reply"}
    assert torch.allclose(strategy.outer.anchor, ANCHOR + 8 / 3)


def test_a_round_in_which_no_one_answers_moves_nothing_and_ends():
    recipe = toy_recipe(3, engine="ray", round_timeout_s=0.2, max_retries=1)
    strategy, stepped = toy_rounds(
        recipe, toy_app(), grid=SilentGrid(toy_app(), 3, silent=[0, 1, 2])
    )
    assert stepped == [False]
    assert strategy.record["attempt"] == 1
    assert strategy.record["refused"] == dict.fromkeys("012", "it sent no reply")
    assert torch.equal(strategy.outer.anchor, ANCHOR)


def test_a_late_reply_does_not_count_for_the_next_round():
    def late(message, client):
        content = honest(message, client)
        if client == 2:
            content.config_records[wire.ABOUT]["round"] -= 1
        return content

    strategy, _ = toy_rounds(toy_recipe(3), toy_app(late))
    assert strategy.record["refused"] == {"2": "it answers round 0; need round 1"}


def test_a_set_stop_leaves_the_gather():
    grid, stop = LocalGrid(toy_app(), 2), threading.Event()
    stop.set()
    message = Message(RecordDict(), 2, "train")
    with pytest.raises(RunStoppedError, match="interrupted"):
        gather(grid, {0: message}, limits=Limits(None, 10**6), stop=stop)


class BrokenRayGrid(LocalGrid):
    """Answers as Flower's Ray engine does when a worker has died."""

    def pull_messages(self, message_ids):
        for message_id in message_ids:
            message = self._pending.pop(message_id)
            if message.metadata.message_type == "query":
                return [self._run_client(message)]
            reason = "<class 'ray.exceptions.ActorDiedError'>:<'The actor died.'>"
            return [Message(Error(0, reason), reply_to=message)]
        return []


def test_a_dead_ray_worker_stops_the_run():
    with pytest.raises(RunStoppedError, match="a Ray worker died, most often of too little memory"):
        toy_rounds(toy_recipe(3, engine="ray"), toy_app(), grid=BrokenRayGrid(toy_app(), 3))


def test_a_reply_that_is_too_large_is_dropped_as_it_comes():
    # 16 numbers weigh 64 bytes and their headers; a good reply is far below a quarter of a MiB.
    def large(message, client):
        content = honest(message, client)
        if client == 1:
            content.config_records[wire.ABOUT]["more"] = "x" * 2**20
        return content

    strategy, stepped = toy_rounds(toy_recipe(3), toy_app(large))
    assert stepped == [True]
    assert "is more than any good one" in strategy.record["refused"]["1"]
    assert set(strategy.record["clients"]) == {"0", "2"}


def test_an_error_of_a_clients_own_making_does_not_stop_the_run():
    class Crying(LocalGrid):
        def pull_messages(self, message_ids):
            replies = list(super().pull_messages(message_ids))
            for reply in replies:
                if reply.metadata.message_type == "train" and reply.metadata.src_node_id == 3:
                    return [Message(Error(0, "ActorDiedError"), reply_to=self.sent[0])]
            return replies

        def push_messages(self, messages):
            messages = list(messages)
            if messages[0].metadata.dst_node_id == 3:
                self.sent = messages
            return super().push_messages(messages)

    strategy, stepped = toy_rounds(toy_recipe(3), toy_app(), grid=Crying(toy_app(), 3))
    assert stepped == [True]
    assert strategy.record["refused"] == {"1": "the client failed: ActorDiedError"}


def test_a_client_that_cries_dead_worker_is_refused_like_any_other():
    def cry(message, client):
        if client == 1:
            raise RuntimeError("ray.exceptions.ActorDiedError: WorkerCrashedError")
        return honest(message, client)

    strategy, stepped = toy_rounds(toy_recipe(3), toy_app(cry))
    assert stepped == [True]
    assert "ActorDiedError" in strategy.record["refused"]["1"]
