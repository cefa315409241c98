"""A federation without a model: real messages and the real round, deltas by formula.

The clients are the tests' own, so that a lie is one function. A delta here
has 16 numbers: tensors `a` and `b` of one shape, for who swaps them, and `c`.
"""

import random
import threading

import torch

from fedtune.adapters.layout import Layout
from fedtune.messages import wire
from fedtune.messages.message import Client, ConfigRecord, MetricRecord, RecordDict
from fedtune.recipe import parse_recipe
from fedtune.round.roster import identify_clients
from fedtune.round.server import RoundServer
from fedtune.simulation.hooks import SimulatedAttack
from fedtune.transport.local import LocalTransport

LAYOUT = Layout((("a", (2, 3)), ("b", (2, 3)), ("c", (4,))))
ANCHOR = torch.arange(16, dtype=torch.float32) / 8
BASE, TOKENIZER = "base of all", "tokenizer of all"


def toy_recipe(
    num_clients, *, aggregator=None, outer=None, attack=None, lora=None, data=None, **federation
):
    return parse_recipe(
        {
            "data": data or {},
            "lora": lora or {},
            "federation": {"num_clients": num_clients, **federation},
            "aggregator": aggregator or {"name": "mean"},
            "outer": outer or {"name": "fedavg"},
            "attack": attack,
        }
    )


def toy_delta(client, round_):
    """What an honest toy client learns: 16 numbers of no order, the same at each call."""
    draw = torch.Generator().manual_seed(1000 * round_ + client)
    return torch.randn(16, generator=draw)


def toy_content(message, row, *, train_loss=1.0, layout=LAYOUT):
    """An honest reply's content that carries ``row``."""
    order = message.content.config_records[wire.ORDER]
    agreement = wire.read_agreement(order)
    return wire.train_reply(
        row, layout, round_=order["round"], agreement=agreement, train_loss=train_loss
    )


def honest(message, client):
    return toy_content(message, toy_delta(client, message.content.config_records["order"]["round"]))


def introduction(client):
    words = {"client": client, "base_hash": BASE, "tokenizer_hash": TOKENIZER, "anchor_hash": ""}
    return RecordDict({wire.ABOUT: ConfigRecord(words)})


def figures(message, client):
    return RecordDict({wire.METRICS: MetricRecord({"loss": 1.0 + client, "num_tokens": 5})})


def toy_app(content_of=honest, introduce=introduction, figures_of=figures):
    """A Client whose client k replies with ``content_of(message, k)``."""
    app = Client()

    @app.on("query")
    def query(message, context):
        return message.reply(introduce(context.node_config["partition-id"]))

    @app.on("train")
    def train(message, context):
        client = context.node_config["partition-id"]
        return message.reply(content_of(message, client))

    @app.on("evaluate")
    def evaluate(message, context):
        client = context.node_config["partition-id"]
        return message.reply(figures_of(message, client))

    return app


class ShuffledTransport(LocalTransport):
    """Runs the clients, and hands over their replies, in an order of chance."""

    def __init__(self, app, num_clients, *, seed):
        super().__init__(app, num_clients)
        self.draw = random.Random(seed)
        self.order = []

    def pull(self, ids):
        replies = super().pull([self.draw.choice(sorted(ids))])
        self.order += [reply.node_id - 2 for reply in replies]
        return replies


class CountingTransport(LocalTransport):
    """Notes which clients are asked, by kind of message."""

    def __init__(self, app, num_clients):
        super().__init__(app, num_clients)
        self.asked = []

    def push(self, message, *, most):
        self.asked.append((message.kind, message.node_id - 2))
        return super().push(message, most=most)


class SilentTransport(LocalTransport):
    """Never delivers what some clients would say to a kind of message."""

    def __init__(self, app, num_clients, *, silent, to="train"):
        super().__init__(app, num_clients)
        self.silent, self.to = {client + 2 for client in silent}, to

    def pull(self, ids):
        def is_heard(message):
            return not (message.node_id in self.silent and message.kind == self.to)

        pending = [each for each in ids if each in self._pending]
        return super().pull([each for each in pending if is_heard(self._pending[each])])


def toy_server(
    recipe,
    transport,
    observer=lambda _: None,
    *,
    layout=LAYOUT,
    anchor=ANCHOR,
    train_own=None,
    loss_of=None,
    tools=None,
    hooks=None,
    folder=None,
):
    """The real server with its roll called, ready for round 1."""
    recipe_json = recipe.model_dump_json()
    server = RoundServer(
        recipe,
        layout,
        anchor,
        recipe_json=recipe_json,
        base_hash=BASE,
        tokenizer_hash=TOKENIZER,
        train_own=train_own,
        loss_of=loss_of,
        hooks=hooks or SimulatedAttack(recipe, tools),
        folder=folder,
        observer=observer,
    )
    server.roster = identify_clients(
        transport,
        recipe,
        recipe_json=recipe_json,
        agreement=wire.Agreement(BASE, TOKENIZER, ""),
        stop=threading.Event(),
        observer=observer,
    )
    return server


def toy_rounds(recipe, app, *, transport=None, rounds=1):
    """Run rounds on the in-process transport; the server, and whether each round stepped."""
    transport = transport or LocalTransport(app, recipe.federation.num_clients)
    server = toy_server(recipe, transport)
    stepped = [server.run_round(transport, round_) for round_ in range(1, rounds + 1)]
    return server, stepped
