"""A federation without a model: real Flower messages and the real round, deltas by formula.

The clients are a Flower ClientApp of the tests' own, so that a lie is one function. A delta here
has 16 numbers: tensors `a` and `b` of one shape, for who swaps them, and `c`.
"""

import random
import threading

import torch
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedtune.adapters.layout import Layout
from fedtune.messages import wire
from fedtune.recipe import parse_recipe
from fedtune.round.roster import call_the_roll
from fedtune.round.strategy import RobustStrategy
from fedtune.transport.local import LocalGrid

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
    """A ClientApp whose client k replies with ``content_of(message, k)``."""
    app = ClientApp()

    @app.query()
    def query(message, context):
        return Message(introduce(context.node_config["partition-id"]), reply_to=message)

    @app.train()
    def train(message, context):
        client = context.node_config["partition-id"]
        return Message(content_of(message, client), reply_to=message)

    @app.evaluate()
    def evaluate(message, context):
        client = context.node_config["partition-id"]
        return Message(figures_of(message, client), reply_to=message)

    return app


class ShuffledGrid(LocalGrid):
    """Runs the clients, and hands over their replies, in an order of chance."""

    def __init__(self, app, num_clients, *, seed):
        super().__init__(app, num_clients)
        self.draw = random.Random(seed)
        self.order = []

    def pull_messages(self, message_ids):
        replies = super().pull_messages([self.draw.choice(sorted(message_ids))])
        self.order += [reply.metadata.src_node_id - 2 for reply in replies]
        return replies


class CountingGrid(LocalGrid):
    """Notes which clients are asked, by kind of message."""

    def __init__(self, app, num_clients):
        super().__init__(app, num_clients)
        self.asked = []

    def push_messages(self, messages):
        messages = list(messages)
        self.asked += [
            (message.metadata.message_type, message.metadata.dst_node_id - 2)
            for message in messages
        ]
        return super().push_messages(messages)


class SilentGrid(LocalGrid):
    """Never delivers what some clients would say to a kind of message."""

    def __init__(self, app, num_clients, *, silent, to="train"):
        super().__init__(app, num_clients)
        self.silent, self.to = {client + 2 for client in silent}, to

    def pull_messages(self, message_ids):
        def is_heard(message_id):
            metadata = self._pending[message_id].metadata
            return not (metadata.dst_node_id in self.silent and metadata.message_type == self.to)

        pending = [message_id for message_id in message_ids if message_id in self._pending]
        return super().pull_messages([one for one in pending if is_heard(one)])


def toy_strategy(
    recipe,
    grid,
    observer=lambda _: None,
    *,
    layout=LAYOUT,
    anchor=ANCHOR,
    train_own=None,
    loss_of=None,
    tools=None,
    folder=None,
):
    """The real strategy with its roll called, ready for round 1."""
    recipe_json = recipe.model_dump_json()
    strategy = RobustStrategy(
        recipe,
        layout,
        anchor,
        recipe_json=recipe_json,
        base_hash=BASE,
        tokenizer_hash=TOKENIZER,
        train_own=train_own,
        loss_of=loss_of,
        tools=tools,
        folder=folder,
        observer=observer,
    )
    strategy.roster = call_the_roll(
        grid,
        recipe,
        recipe_json=recipe_json,
        agreement=wire.Agreement(BASE, TOKENIZER, ""),
        stop=threading.Event(),
        observer=observer,
    )
    return strategy


def toy_rounds(recipe, app, *, grid=None, rounds=1):
    """Run rounds on the in-process grid; the strategy, and whether each round stepped."""
    grid = grid or LocalGrid(app, recipe.federation.num_clients)
    strategy = toy_strategy(recipe, grid)
    stepped = [strategy.run_round(grid, round_) for round_ in range(1, rounds + 1)]
    return strategy, stepped
