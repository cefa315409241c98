"""Rounds of hostile clients on the real road, each reply of which an oracle judges."""

import json

import numpy as np
import torch
from breakages import BREAKAGES
from good_replies import BASE, SHAPES, TOKENIZER, as_message
from hostile_road import ROUND, Road
from oracle import good_row

from fedtune.messages.wire import hash_row

MAX_REASON = 300


def answer(reply, sent):
    """What a client hands over: its reply, and before or after it what nobody asked for."""

    def make(order):
        message = as_message(reply, order)
        sent.append(message)
        if reply.envelope == "twice":
            return [message, as_message(reply, order)]
        if reply.envelope == "a stranger first":
            stranger = as_message(reply, order)
            stranger.reply_to = "never sent"
            return [stranger, message]
        return [message]

    return make


class Campaign:
    """Plays rounds of hostile clients, and holds each against the oracle."""

    def __init__(self, folder):
        self.road = Road(folder)
        self.met = dict.fromkeys((breakage.__name__ for breakage in BREAKAGES), 0)
        self.good = self.bad = 0
        self.reasons = set()
        self.hashes = {
            "base_hash": BASE,
            "tokenizer_hash": TOKENIZER,
            "anchor_hash": hash_row(self.road.server.outer.anchor, self.road.server.layout),
        }
        self.order = {"round": ROUND, **self.hashes}

    def play(self, replies):
        sent = [[] for _ in replies]
        answers = [answer(*pair) for pair in zip(replies, sent, strict=True)]
        record = self.road.play(answers)
        assert set(record["refused"]) | {str(each) for each in self.road.accepted} == {
            str(client) for client in range(len(replies) + 1)
        }
        assert len(json.dumps(record, allow_nan=False)) < 60_000 * len(replies)
        for client, ((message,), reply) in enumerate(zip(sent, replies, strict=True)):
            self.judge(client, message, record["refused"].get(str(client)))
            for name in reply.broken:
                self.met[name] += 1

    def judge(self, client, message, reason):
        row = good_row(message, shapes=SHAPES, round_=ROUND, hashes=self.hashes)
        if row is None:
            assert client not in self.road.accepted
            assert 0 < len(reason) <= MAX_REASON
            assert reason.isprintable()
            self.bad += 1
            self.reasons.add(reason)
        else:
            assert reason is None, f"a good reply was refused: {reason}"
            found = self.road.row(client)
            assert found.dtype == torch.float32
            assert found.numpy().tobytes() == np.array(row, "<f4").tobytes()
            self.good += 1
