"""A node's meter on a clock that is set by hand, and orders as a server sends them."""

import json

import pytest

from fedtune.messages.node_errors import NotAllowedError
from fedtune.node.budget import Ledger, make_state
from fedtune.node.meter import NodeMeter
from fedtune.recipe import parse_recipe

FEW = {
    "federation": {"num_clients": 3, "num_rounds": 9, "local_steps": 4},
    "aggregator": {"name": "mean"},
}


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


class Node:
    """A node's folder.

    Attributes:
        clock: Its own.
        folder: Its path.
        ledger: What it has used.
    """

    def __init__(self, folder):
        self.clock, self.folder = Clock(), folder
        make_state(folder)
        self.ledger = Ledger(folder, clock=self.clock)
        self.ledger.refill()  # the day begins on this clock

    def __call__(self, **keys):
        """A worker's meter, as after a start of the worker, under what node.yaml says."""
        (self.folder / "node.yaml").write_text(json.dumps({"max_rounds": 9, **keys}))
        return NodeMeter(self.folder, Ledger(self.folder, clock=self.clock))


def words(round_, anchor, **sections):
    text = parse_recipe({**FEW, **sections}).model_dump_json()
    return {"recipe": text, "round": round_, "anchor_hash": anchor}


def train(meter, run_id, round_, anchor, **sections):
    with meter.order():
        meter.charge("train", run_id, words(round_, anchor, **sections))


def vote(meter, run_id, round_):
    with meter.order():
        meter.charge("evaluate.vote", run_id, words(round_, "any"))


def refused(said):
    return pytest.raises(NotAllowedError, match=said)
