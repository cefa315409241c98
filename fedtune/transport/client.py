"""The Flower ClientApp: introduce yourself, train from the anchor, measure an adapter.

It stands in an importable module, so that the base model in a process outlives a message.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedtune.messages import wire
from fedtune.messages.node_errors import failure
from fedtune.round import ballot
from fedtune.round.kept_back import VOTE, kept_back, shown
from fedtune.round.screening.commitments import Occasion
from fedtune.simulation.adversary import trains_for_nothing
from fedtune.simulation.poisoning import poison_of
from fedtune.training.client_round import Trained
from fedtune.training.process import get_worker, read_recipe
from fedtune.training.worker import Worker
from fedtune.transport.flower.privacy import finite, privately, refuse_figures, trained_privately

app = ClientApp()
OWN_ROWS = "own-rows"  # of Flower's node config: all rows of the source are this client's


@app.query()
def introduce(message: Message, context: Context) -> Message:
    """Say who this is, which base and tokenizer it holds, and how many rows of which columns."""
    worker, client = _open(message, context)
    words: dict[str, Any] = {
        "client": client,
        "base_hash": worker.base_hash,
        "tokenizer_hash": worker.base.tokenizer_hash,
        "anchor_hash": "",
        "rows": len(worker.parts[client].train),
        "schema_hash": worker.schema_hash,
    }
    return Message(RecordDict({wire.ABOUT: ConfigRecord(words)}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Run the local steps from the anchor, and send the delta."""
    worker, client = _open(message, context)
    anchor, agreement = _anchor(message, worker, client)
    round_, try_ = int(str(_order(message)["round"])), wire.try_of(_order(message))
    recipe = read_recipe(str(_order(message)["recipe"]))
    if trains_for_nothing(recipe, client, round_):
        trained = Trained(torch.zeros(worker.part(client, round_).layout.size), 0.0)
    else:
        steps = partial(
            worker.train,
            anchor,
            client=client,
            round_=round_,
            try_=try_,
            poison=poison_of(recipe, client, round_),
            state_folder=Path(recipe.output_dir) / "clients" / f"{client:04d}",
        )
        trained = trained_privately(steps, worker.part(client, round_).layout.size, context)
    reply = wire.train_reply(
        finite(trained.delta, context),
        worker.part(client, round_).layout,
        round_=round_,
        agreement=agreement,
        train_loss=trained.train_loss,
        figures=trained.figures,
    )
    reply = privately(reply, context)  # refuses noise that leaves float32
    if recipe.federation.commit_then_reveal:
        occasion = Occasion(agreement.anchor_hash, round_, client, try_)
        reply = kept_back(reply, context.state, occasion)
    return Message(reply, reply_to=message)


@app.train("reveal")
def reveal(message: Message, context: Context) -> Message:
    """Show the reply that was committed to; what else is asked for was never kept."""
    order = _order(message)
    reply = shown(context.state, order["round"], try_=wire.try_of(order))
    return Message(reply, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the adapter on this client's own held-out rows."""
    refuse_figures(context)
    worker, client = _open(message, context)
    anchor, _ = _anchor(message, worker, client)
    figures = worker.measure(anchor, client=client).as_dict()
    return Message(RecordDict({wire.METRICS: MetricRecord({**figures})}), reply_to=message)


@app.evaluate("vote")
def vote(message: Message, context: Context) -> Message:
    """Say what a candidate anchor does to the loss on this client's own held-out rows.

    What is sent is a commitment: no vote is shown before all are cast.
    """
    refuse_figures(context)
    worker, client = _open(message, context)
    candidate, agreement = _anchor(message, worker, client)
    said = ballot.cast(
        message.content,
        context.state,
        client,
        candidate=(candidate, agreement.anchor_hash),
        layout=worker.layout_of(client),
        loss_of=lambda row: worker.measure(row, client=client).loss,
    )
    return Message(said, reply_to=message)


@app.evaluate("reveal")
def reveal_vote(message: Message, context: Context) -> Message:
    """Show the vote that was committed to."""
    return Message(shown(context.state, _order(message)["round"], kind=VOTE), reply_to=message)


def _open(message: Message, context: Context) -> tuple[Worker, int]:
    client = int(context.node_config["partition-id"])
    own = client if context.node_config.get(OWN_ROWS) else None
    return get_worker(str(_order(message)["recipe"]), own=own), client


def _order(message: Message) -> Mapping[str, object]:
    return message.content.config_records[wire.ORDER]


def _anchor(message: Message, worker: Worker, client: int) -> tuple[torch.Tensor, wire.Agreement]:
    """The anchor, if it is what its hash says and both sides hold the same base and tokenizer."""
    layout = worker.layout_of(client)
    anchor = ballot.read_anchor(message.content.array_records[wire.ANCHOR], layout)
    ours = wire.Agreement(
        worker.base_hash, worker.base.tokenizer_hash, wire.hash_row(anchor, layout)
    )
    theirs = wire.read_agreement(message.content.config_records[wire.ORDER])
    if difference := ours.difference(theirs):
        named = difference.partition("_")[0]  # base, tokenizer, anchor
        raise failure(f"other-{named}", f"this client does not train for that server: {difference}")
    return anchor, ours
