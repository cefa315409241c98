"""What a client does with each order: introduce itself, train, measure, vote.

The handlers stand in an importable module, so that the base model in a process outlives a message.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from fedtune.failing import during
from fedtune.messages import wire
from fedtune.messages.message import (
    EVALUATE,
    QUERY,
    REVEAL,
    REVEAL_VOTE,
    TRAIN,
    VOTE,
    Client,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from fedtune.messages.node_errors import NotAllowedError, failure
from fedtune.node import ballot, kept_back
from fedtune.node.privacy import finite, privately, refuse_figures, trained_privately
from fedtune.recipe import Recipe
from fedtune.round.screening.commitments import Occasion
from fedtune.training.client_round import Poison, Trained
from fedtune.training.inner_state import folder_of
from fedtune.training.process import count_trained, get_worker, read_recipe
from fedtune.training.worker import Worker

# Of the node config: all rows of the source are this client's; on a node also its
# owner's limit, and the server's name of the run.
OWN_ROWS, MOST_TRAINED, RUN = "own-rows", "max-trained-parameters", "run"
COUNTS = {"num_tokens", "num_pairs", "num_prompts"}  # of held-out rows, among the figures
TELLS_ROWS = "tells-rows"  # whether the owner lets the number of rows be told


class Conduct(Protocol):
    """How a client behaves in a run; a simulation replaces it for its attackers."""

    def skips_training(self, client: int, round_: int) -> bool:
        """Whether nobody will look at what this client learns in a round: it sends zeros."""

    def poison(self, client: int, round_: int) -> Poison | None:
        """What the client does to the rows or rewards that it trains on."""

    def vote(self, client: int, change: float) -> float:
        """What the client says of its true loss change."""


class Honest:
    """The conduct of a correct client."""

    def skips_training(self, client: int, round_: int) -> bool:
        """Never."""
        return False

    def poison(self, client: int, round_: int) -> Poison | None:
        """None."""
        return None

    def vote(self, client: int, change: float) -> float:
        """The true one."""
        return change


ConductOf = Callable[[Recipe], Conduct]


def make_client(conduct_of: ConductOf) -> Client:
    """The client of every engine.

    Args:
        conduct_of: How clients of a recipe behave.
    """
    return Client(
        {
            QUERY: introduce,
            TRAIN: partial(train, conduct_of),
            REVEAL: reveal,
            EVALUATE: evaluate,
            VOTE: partial(vote, conduct_of),
            REVEAL_VOTE: reveal_vote,
        }
    )


def introduce(message: Message, context: Context) -> Message:
    """Say who this is, which base and tokenizer it holds, and which columns its rows have.

    How many rows there are is said too, unless the node's owner has not allowed that.
    """
    worker, client = _open(message, context)
    words: dict[str, Any] = {
        "client": client,
        "base_hash": worker.base_hash,
        "tokenizer_hash": worker.base.tokenizer_hash,
        "anchor_hash": "",
    }
    with during("rows"):
        words["schema_hash"] = worker.data.schema_hash
        if context.node_config.get(TELLS_ROWS, True):
            words["rows"] = len(worker.data.parts[client].train)
    return message.reply(RecordDict({wire.ABOUT: ConfigRecord(words)}))


def train(conduct_of: ConductOf, message: Message, context: Context) -> Message:
    """Run the local steps from the anchor, and send the delta."""
    worker, client = _open(message, context)
    anchor, agreement = _anchor(message, worker, client)
    round_, try_ = int(str(_order(message)["round"])), wire.try_of(_order(message))
    recipe = read_recipe(str(_order(message)["recipe"]))
    conduct = conduct_of(recipe)
    if conduct.skips_training(client, round_):
        trained = Trained(torch.zeros(worker.part(client, round_).layout.size), 0.0)
    else:
        steps = partial(
            worker.trainer.train,
            anchor,
            client=client,
            round_=round_,
            try_=try_,
            poison=conduct.poison(client, round_),
            state_folder=_state_folder(recipe, client, context),
        )
        with during("training"):
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
        reply = kept_back.kept_back(reply, context.state, occasion)
    return message.reply(reply)


def reveal(message: Message, context: Context) -> Message:
    """Show the reply that was committed to; what else is asked for was never kept."""
    order = _order(message)
    return message.reply(kept_back.shown(context.state, order["round"], try_=wire.try_of(order)))


def evaluate(message: Message, context: Context) -> Message:
    """Measure the adapter on this client's own held-out rows."""
    refuse_figures(context)
    worker, client = _open(message, context)
    anchor, _ = _anchor(message, worker, client)
    with during("measuring"):
        figures = told_of(worker.evaluator.measure(anchor, client=client).as_dict(), context)
    return message.reply(RecordDict({wire.METRICS: MetricRecord({**figures})}))


def told_of(figures: Mapping[str, float], context: Context) -> dict[str, float]:
    """Figures of held-out rows; without their number, unless the owner lets that be told."""
    tells = context.node_config.get(TELLS_ROWS, True)
    return {name: each for name, each in figures.items() if tells or name not in COUNTS}


def vote(conduct_of: ConductOf, message: Message, context: Context) -> Message:
    """Say what a candidate anchor does to the loss on this client's own held-out rows.

    What is sent is a commitment: no vote is shown before all are cast.
    """
    refuse_figures(context)
    worker, client = _open(message, context)
    candidate, agreement = _anchor(message, worker, client)
    conduct = conduct_of(read_recipe(str(_order(message)["recipe"])))
    said = ballot.cast(
        message.records,
        context.state,
        client,
        candidate=(candidate, agreement.anchor_hash),
        layout=worker.layout_of(client),
        loss_of=partial(worker.evaluator.loss, client=client),
        says=conduct.vote,
    )
    return message.reply(said)


def reveal_vote(message: Message, context: Context) -> Message:
    """Show the vote that was committed to."""
    order = _order(message)
    return message.reply(kept_back.shown(context.state, order["round"], kind=kept_back.VOTE))


def _open(message: Message, context: Context) -> tuple[Worker, int]:
    own = context.client if context.node_config.get(OWN_ROWS) else None
    recipe_json = str(_order(message)["recipe"])
    if (most := context.node_config.get(MOST_TRAINED)) is not None:
        _refuse_larger(count_trained(recipe_json), int(str(most)))
    read_recipe(recipe_json)
    with during("loading"):
        return get_worker(recipe_json, own=own), context.client


def _refuse_larger(trained: int, most: int) -> None:
    """Refuse an adapter with more than the owner allows: heads and embeddings have no rank."""
    if trained > most:
        said = f"trained parameters: {trained:,} of at most {most:,} (max_trained_parameters)"
        raise NotAllowedError(said)


def _state_folder(recipe: Recipe, client: int, context: Context) -> Path | None:
    """Where this client keeps its optimizer's state; on a node, apart for each run."""
    if recipe.federation.inner_optimizer != "keep":
        return None
    root, run = Path(recipe.output_dir) / "clients", context.node_config.get(RUN)
    return (root if run is None else folder_of(str(run), root)) / f"{client:04d}"


def _order(message: Message) -> Mapping[str, object]:
    return message.records.config_records[wire.ORDER]


def _anchor(message: Message, worker: Worker, client: int) -> tuple[torch.Tensor, wire.Agreement]:
    """The anchor, if it is what its hash says and both sides hold the same base and tokenizer."""
    layout = worker.layout_of(client)
    anchor = ballot.read_anchor(message.records.array_records[wire.ANCHOR], layout)
    ours = wire.Agreement(
        worker.base_hash, worker.base.tokenizer_hash, wire.hash_row(anchor, layout)
    )
    theirs = wire.read_agreement(message.records.config_records[wire.ORDER])
    if difference := ours.difference(theirs):
        named = difference.partition("_")[0]  # base, tokenizer, anchor
        raise failure(f"other-{named}", f"this client does not train for that server: {difference}")
    return anchor, ours
