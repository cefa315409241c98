"""A round of the default defence in which f attackers do whatever can befall a reply.

The real server takes real Flower messages through its own hooks; replies are made once for each
number of clients, and a round is a choice among them.
"""

from itertools import cycle

import numpy as np
import torch
from product_server import LAYOUT, drawn, recipe_of, turned
from toy_federation import BASE, TOKENIZER

from fedtune.messages import wire
from fedtune.messages.message import Array
from fedtune.round.broadcast import Broadcast
from fedtune.round.gather import Gathered
from fedtune.round.roster import Roster
from fedtune.round.screening.commitments import SALT_BYTES, Occasion, commit, with_salt
from fedtune.round.server import RoundServer
from fedtune.transport.local import LocalTransport

ANCHOR = drawn(0)
SALT = bytes(SALT_BYTES)
PROVABLE = ("not finite", "wrong shape", "not as committed")
UNPROVABLE = ("gauge", "error", "stale anchor", "other format")
ACCEPTED = ("far", "against", "alike", "nothing")
WORDS = {
    "not finite": "holds a value that is not finite",
    "wrong shape": "needs shape",
    "not as committed": "its reply is not what it committed to",
    "gauge": "no gauge near the anchor's",
    "error": "the client failed",
    "stale anchor": "anchor_hash differs",
    "other format": "numpy's format",
    "silent": "it sent no reply",
}


def splits(f):
    """All ways to split f attackers into silent, provably and not provably refused, accepted."""
    for silent in range(f + 1):
        for proven in range(f + 1 - silent):
            for refused in range(f + 1 - silent - proven):
                yield silent, proven, refused, f - silent - proven - refused


class Table:
    """Replies of n clients to one order, by client and kind."""

    def __init__(self, n):
        self.n = n
        federation = {"num_clients": n, "commit_then_reveal": True, "max_retries": 0}
        self.recipe = recipe_of(n, aggregator={}, federation=federation)
        self.f = self.recipe.aggregator.f
        sent = Broadcast(self.recipe, LAYOUT, ANCHOR, round_=1)
        self.hash = sent.whole.anchor_hash
        self.transport = LocalTransport(None, n)  # lends messages an identity
        self.attackers = list(range(1, 3 * self.f, 3))
        self.honest = {k: self._honest(k) for k in range(n) if k not in self.attackers}
        self.made = {}

    @staticmethod
    def _honest(client):
        return 0.1 * (drawn(100) + drawn(1 + client))

    def contents(self, client, kind):
        """A reply, and what its client committed to."""
        if (client, kind) not in self.made:
            content = self._content(client, kind)
            occasion = Occasion(self.hash, 1, client)
            commitment = commit(content, SALT, occasion)
            if kind == "not as committed":
                content[wire.ABOUT]["note"] = "an afterthought"
            self.made[client, kind] = with_salt(content, SALT), commitment
        return self.made[client, kind]

    def _content(self, client, kind):
        hash_ = "f" * 64 if kind == "stale anchor" else self.hash
        agreement = wire.Agreement(BASE, TOKENIZER, hash_)
        content = wire.train_reply(
            self._row(client, kind), LAYOUT, round_=1, agreement=agreement, train_loss=1.0
        )
        delta = content.array_records[wire.DELTA]
        name = next(iter(delta))
        if kind == "wrong shape":
            delta[name] = Array.of(np.ones((1, 2), np.float32))
        if kind == "other format":
            delta[name].stype = "a format of its own"
        return content

    def _row(self, client, kind):
        mean = torch.stack(list(self.honest.values())).mean(dim=0)
        row = self.honest.get(client, self._honest(client))
        if kind == "gauge":
            return turned(ANCHOR, row, torch.diag(torch.tensor([1e4, 1.0, 1.0])).double())
        return {
            "not finite": torch.full_like(row, float("nan")),
            "far": 30 * row,
            "against": -1.3 * mean,
            "alike": 1.2 * mean,
            "nothing": torch.zeros_like(row),
        }.get(kind, row)

    def kinds(self, split):
        """What each attacker does, the kinds of a group in turn."""
        silent, proven, refused, accepted = split
        turn = silent + 2 * proven + 3 * refused  # so that each kind begins some split
        does = ["silent"] * silent
        for count, group in ((proven, PROVABLE), (refused, UNPROVABLE), (accepted, ACCEPTED)):
            start = turn % len(group)
            does += [kind for kind, _ in zip(cycle(group[start:] + group[:start]), range(count))]
        return dict(zip(self.attackers, does, strict=True))

    def round(self, kinds):
        """The server after a round, and whether it stepped."""
        server = RoundServer(
            self.recipe, LAYOUT, ANCHOR, recipe_json=self.recipe.model_dump_json(),
            base_hash=BASE, tokenizer_hash=TOKENIZER,
        )  # fmt: skip
        server.roster = Roster({k: k + 2 for k in range(self.n)}, {})
        server.begin_round(1)
        server.record.attempt = 0
        orders = server.orders_to_train(1)
        ids = [self.transport.push(order, most=10**6) for order in orders]
        server.exchange.gathered = Gathered(asked=dict(zip(ids, range(self.n), strict=True)))
        replies = []
        for client, (pushed, order) in enumerate(zip(ids, orders, strict=True)):
            kind = kinds.get(client, "honest")
            if kind == "silent":
                continue
            order.id = pushed
            if kind == "error":
                replies.append(order.failed("MemoryError: no room"))
                continue
            content, server.exchange.commitments[client] = self.contents(client, kind)
            replies.append(order.reply(content))
        return server, server.aggregate(1, replies)
