"""The server's whole road on given updates: real messages and rounds, no model."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aggregators.geometry import LowRank, combined_change, gather
from fedtune.adapters.layout import Layout
from fedtune.adapters.part import Part
from fedtune.messages import wire
from fedtune.messages.message import (
    QUERY,
    TRAIN,
    Client,
    ConfigRecord,
    Context,
    Message,
    RecordDict,
)
from fedtune.recipe import Recipe
from fedtune.records.events import RunStoppedError
from fedtune.records.lines import RoundRecord
from fedtune.round.aggregation.factors import describe
from fedtune.round.roster import identify_clients
from fedtune.round.server import RoundServer
from fedtune.simulation.hooks import SimulatedAttack
from fedtune.simulation.without_model import objections
from fedtune.transport.local import LocalTransport

_WORDS = hashlib.sha256(b"given updates").hexdigest()  # in place of the hashes of base, tokenizer


@dataclass(frozen=True, eq=False)
class RoundUpdates:
    """The honest updates of one round.

    Attributes:
        anchor: What all clients started from, shape (d,), float32.
        rows: Every client's delta, in the order of clients, shape (n, d), float32.
    """

    anchor: Tensor
    rows: Tensor


@dataclass(frozen=True, eq=False)
class Replayed:
    """One round as the server went through it.

    Attributes:
        before: The anchor it began with, shape (d,).
        after: The anchor that its step led to.
        record: As in metrics.jsonl.
    """

    before: Tensor
    after: Tensor
    record: RoundRecord


def replay(recipe: Recipe, layout: Layout, rounds: Sequence[RoundUpdates]) -> Iterator[Replayed]:
    """Take each round's updates through attack, screen, rule and step.

    Each round begins at its given anchor, whatever the one before led to: rows were measured from
    there. What rule and attackers remember goes on from round to round, in the gauges of the given
    anchors; the outer optimizer does not.

    Args:
        recipe: The cell's. Its outer optimizer has to be fedavg, the clients all of rank r.
        layout: Of anchor and rows.
        rounds: At least as many as are wanted.

    Raises:
        ValueError: If the recipe cannot be run on given rows.
        RunStoppedError: If a round could not be completed.
    """
    _check(recipe, rounds)
    transport = LocalTransport(_client(layout, rounds), recipe.federation.num_clients)
    server = _server(recipe, layout, rounds[0].anchor, transport)
    for round_, given in enumerate(rounds, 1):
        server.outer.load_state_dict({"anchor": given.anchor})
        if not server.run_round(transport, round_):
            raise RunStoppedError(f"round {round_} got too few good replies: {server.objection()}")
        yield Replayed(given.anchor, server.outer.anchor, server.record)


def step_error(recipe: Recipe, layout: Layout, replayed: Replayed, ideal: Tensor) -> float:
    """How far a step missed the ideal one, in what the model feels: a share of its square.

    With P the change s(B'A' - BA) of all modules that a row stands for, it is
    |P(step) - P(ideal)|^2 / |P(ideal)|^2: 0 for the ideal step, 1 for none, 4 for its opposite.
    Exact, through low-rank pieces. What is trained whole (modules_to_save) is not looked at.

    Args:
        recipe: For LoRA's scale.
        layout: Of the rows.
        replayed: The round.
        ideal: The ideal step, a row of shape (d,).

    Raises:
        ValueError: If the ideal step moves no product.
    """
    factors = describe(Part("both", layout), None, recipe.lora)
    start = replayed.before
    clients = gather([replayed.after - start, ideal], start, factors)
    length = _point(clients, [0.0, 1.0]).squared_norm()
    if length == 0:
        raise ValueError("the ideal step needs to move the model: got none; check the rows")
    return max(_point(clients, [1.0, -1.0]).squared_norm(), 0.0) / length


def _point(clients: list[Any], weights: list[float]) -> LowRank:
    return combined_change(clients, torch.tensor(weights, dtype=torch.float64))


def _server(
    recipe: Recipe, layout: Layout, anchor: Tensor, transport: LocalTransport
) -> RoundServer:
    """The real server with its roll called, ready for round 1; no model, so no juries."""
    unjudged = recipe.defence.model_copy(update={"vote": None, "server_data": None})
    recipe = recipe.model_copy(update={"defence": unjudged})
    recipe_json = recipe.model_dump_json()
    server = RoundServer(
        recipe,
        layout,
        anchor,
        recipe_json=recipe_json,
        base_hash=_WORDS,
        tokenizer_hash=_WORDS,
        hooks=SimulatedAttack(recipe),
    )
    # Turned along with an anchor that no round goes on from, what rule and attackers remember
    # would be measured in a gauge that nothing else is in.
    server.geometry.renews = False
    server.roster = identify_clients(
        transport,
        recipe,
        recipe_json=recipe_json,
        agreement=wire.Agreement(_WORDS, _WORDS, ""),
        stop=threading.Event(),
        observer=lambda _: None,
    )
    return server


def _check(recipe: Recipe, rounds: Sequence[RoundUpdates]) -> None:
    if found := objections(recipe):
        raise ValueError("; ".join(found))
    for round_, given in enumerate(rounds, 1):
        if len(given.rows) != recipe.federation.num_clients:
            raise ValueError(
                f"round {round_} needs a row for each of {recipe.federation.num_clients} clients: "
                f"got {len(given.rows)}"
            )


def _client(layout: Layout, rounds: Sequence[RoundUpdates]) -> Client:
    """A client that answers with the update it is given."""
    client = Client()

    @client.on(QUERY)
    def introduce(message: Message, context: Context) -> Message:
        words: dict[str, Any] = {"base_hash": _WORDS, "tokenizer_hash": _WORDS, "anchor_hash": ""}
        about = ConfigRecord({"client": context.client, **words})
        return message.reply(RecordDict({wire.ABOUT: about}))

    @client.on(TRAIN)
    def train(message: Message, context: Context) -> Message:
        order = message.records.config_records[wire.ORDER]
        round_ = int(str(order["round"]))
        return message.reply(
            wire.train_reply(
                rounds[round_ - 1].rows[context.client].clone(),
                layout,
                round_=round_,
                agreement=wire.read_agreement(order),
                train_loss=0.0,
            )
        )

    return client
