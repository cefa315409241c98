"""A toy federation whose clients vote: each pulls the anchor to a target of its own.

Client k's loss of an anchor x is mean((x - t_k)^2), and it sends ``pull * (t_k - x)``. Votes take
the real client's way: measured, committed to, kept back, revealed.
"""

import torch
from toy_federation import ANCHOR, LAYOUT, toy_app, toy_content, toy_server
from written import as_written

from fedtune.messages import wire
from fedtune.node import ballot
from fedtune.node.kept_back import VOTE, shown
from fedtune.recipe import parse_recipe
from fedtune.simulation.client import Simulated
from fedtune.training.process import read_recipe
from fedtune.transport.local import LocalTransport


def target_of(client):
    """One unit above the anchor, and a little of the client's own."""
    draw = torch.Generator().manual_seed(client)
    return ANCHOR + 1 + 0.05 * torch.randn(16, generator=draw)


def loss_at(row, client, target=target_of):
    return float((row - target(client)).square().mean())


def voting_app(*, pull=0.5, target=target_of, loss_of=None, vote_of=None, seen=None, trained=None):
    """The toy Client with votes.

    ``loss_of(row, client)`` is what a client measures, ``vote_of(message, context, client)`` may
    answer in its place (None: it does not). ``seen`` takes down who is asked to vote, and whether
    the accepted anchor came along, ``trained`` who trains.
    """
    loss_of = loss_of or (lambda row, client: loss_at(row, client, target))

    def learnt(message, client):
        if trained is not None:
            trained.append(client)
        anchor = wire.from_arrays(message.content.array_records[wire.ANCHOR], LAYOUT)
        return toy_content(message, pull * (target(client) - anchor))

    app = toy_app(learnt)

    @app.on("evaluate.vote")
    def vote(message, context):
        client = context.node_config["partition-id"]
        if seen is not None:
            seen.append((client, wire.ACCEPTED in message.content))
        if vote_of is not None and (said := vote_of(message, context, client)) is not None:
            return message.reply(said)
        order = message.content.config_records[wire.ORDER]
        row = wire.from_arrays(message.content.array_records[wire.ANCHOR], LAYOUT)
        said = ballot.cast(
            message.content,
            context.state,
            client,
            candidate=(row, order["anchor_hash"]),
            layout=LAYOUT,
            loss_of=lambda anchor: loss_of(anchor, client),
            says=Simulated(read_recipe(order["recipe"])).vote,
        )
        return message.reply(said)

    @app.on("evaluate.reveal")
    def reveal(message, context):
        round_ = message.content.config_records[wire.ORDER]["round"]
        return message.reply(shown(context.state, round_, kind=VOTE))

    return app


def voting_recipe(*, vote=True, rule="mean", f=3, attack=None, outer=None, **sections):
    return parse_recipe(
        {
            "federation": {"num_clients": 10, **sections.pop("federation", {})},
            "aggregator": {"name": rule, "f": f},
            "outer": outer or {"name": "fedavg"},
            "attack": attack,
            "defence": {"vote": vote, **sections.pop("defence", {})},
            **sections,
        }
    )


def vote_rounds(recipe, app=None, *, rounds=1, transport=None, loss_of=None):
    """The server after some rounds, and the records of them."""
    transport = transport or LocalTransport(app or voting_app(), recipe.federation.num_clients)
    server = toy_server(recipe, transport, loss_of=loss_of)
    records = []
    for round_ in range(1, rounds + 1):
        assert server.run_round(transport, round_), server.record.refused
        records.append(as_written(server.record))
    return server, records


def mean_loss(row, clients=range(10)):
    return sum(loss_at(row, client) for client in clients) / len(clients)
