"""The real road of a reply, from the server's order to a row on disk or a refusal.

The transport hands over what a test made; everything else is the server's own code. The last
client always fails and the rule needs all, so that nothing is ever combined and every round ends
with its spool as it was filled.
"""

import threading
from uuid import uuid4

import torch
from good_replies import BASE, LAYOUT, TOKENIZER, as_message, good_reply
from written import as_written

from fedtune.messages.message import Client
from fedtune.recipe import parse_recipe
from fedtune.round.roster import Roster
from fedtune.round.server import RoundServer
from fedtune.transport.local import LocalTransport

HOSTILE = 16
ANCHOR = torch.linspace(-1, 1, LAYOUT.size)
ROUND = 1  # which True and 1.0 are equal to


class HandingTransport(LocalTransport):
    """Hands over made messages: ``answers[client]`` is a function of the order, to a list."""

    def __init__(self, answers):
        super().__init__(Client(), len(answers))
        self.answers, self.orders = answers, {}

    def push(self, message, *, most):
        message.id = str(uuid4())
        self.orders[message.id] = message
        return message.id

    def pull(self, ids):
        for message_id in ids:
            if message_id in self.orders:
                order = self.orders.pop(message_id)
                return self.answers[order.node_id - 2](order)
        return []


def words_of(order):
    return order.content["order"]


def numbers_of(client):
    draw = torch.Generator().manual_seed(client)
    return torch.randn(LAYOUT.size, generator=draw).numpy()


def honest(client):
    return lambda order: [as_message(good_reply(words_of(order), numbers_of(client)), order)]


def failing(order):
    return [order.failed("Traceback\nRuntimeError: the last one fails")]


def hostile_recipe(hostile=HOSTILE, **sections):
    """That many clients that a test speaks for, an even number, and one that always fails."""
    clients = hostile + 1
    federation = {"num_clients": clients, "num_rounds": 8, "max_retries": 0}
    aggregator = {"name": "median", "f": (clients - 1) // 2, "geometry": "factors"}
    return parse_recipe({"federation": federation, "aggregator": aggregator, **sections})


class Road:
    """One server whose rounds are played again and again."""

    def __init__(self, folder, recipe=None, *, hostile=HOSTILE):
        self.recipe = recipe or hostile_recipe(hostile)
        self.events = []
        self.server = RoundServer(
            self.recipe,
            LAYOUT,
            ANCHOR,
            recipe_json=self.recipe.model_dump_json(),
            base_hash=BASE,
            tokenizer_hash=TOKENIZER,
            folder=folder,
            observer=self.events.append,
            stop=threading.Event(),
        )
        nodes = {client: client + 2 for client in range(self.recipe.federation.num_clients)}
        self.server.roster = Roster(nodes, {})

    def play(self, answers):
        """One round in which client k answers ``answers[k](order)``; its record."""
        self.events.clear()
        assert not self.server.run_round(HandingTransport([*answers, failing]), ROUND)
        return as_written(self.server.record)

    def row(self, client):
        return self.server.intake.spool.row(client)

    @property
    def accepted(self):
        return set(self.server.intake.spool.clients)
