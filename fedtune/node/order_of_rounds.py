"""In what order a node trains and votes, whoever asks and under whatever run id.

Run ids are the server's to give, so that nothing is gained by a new one: a recipe's rounds have
the anchors that they had, and each that gets another begins a run, of which a day has so many.
"""

from __future__ import annotations

import hashlib
import json

from fedtune.deployment.node import NodeConfig
from fedtune.messages.node_errors import NotAllowedError
from fedtune.node.budget import Book, History, Standing
from fedtune.recipe import Recipe
from fedtune.round.defence.candidate import SCALES

_HASH_DIGITS = 64  # a stranger's text is kept in the book
MAX_RUN_IDS = 256  # in a day; a run that goes on after a stop has another
_TRAINED_BY = {"task", "model", "reference", "rewards", "lora", "data", "train"}
_STEPPED_BY = {"local_steps", "local_epochs", "inner_optimizer", "seed"}  # of its federation


def name_of(recipe: Recipe) -> str:
    """A hash of what a node trains by: the server's rule, timeouts and folders are not in it."""
    facts = recipe.model_dump(mode="json", include=_TRAINED_BY)
    federation = recipe.federation.model_dump(mode="json", include=_STEPPED_BY)
    text = json.dumps([facts, federation], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def permit_training(
    book: Book,
    config: NodeConfig,
    *,
    run_id: int,
    recipe: str,
    round_: object,
    anchor: object,
) -> None:
    """Count one order to train.

    Args:
        book: Of the node; it is changed.
        config: The owner's.
        run_id: Flower's number of the run.
        recipe: As `name_of` names it.
        round_: As the server says.
        anchor: The hash of what it is to start from, as the server says.

    Raises:
        NotAllowedError: If the round is none, or is over in this run, or was begun from another
            anchor in it; if it had its ``max_tries`` orders; or if it begins a run (the first round
            of a recipe here, or a round from another anchor than under any run id before), and the
            day's ``max_day_runs`` have begun.
    """
    if not isinstance(anchor, str) or len(anchor) > _HASH_DIGITS:
        raise NotAllowedError(f"anchor_hash: needs {_HASH_DIGITS} digits; got {str(anchor)[:20]!r}")
    number, standing = _enter(book, config, run_id, round_)
    if number > standing.round:
        standing.round, standing.anchor, standing.trained = number, anchor, 0
    elif anchor != standing.anchor:
        raise NotAllowedError(f"round: {number} was begun from another anchor")
    standing.trained += 1
    if standing.trained > config.max_tries:
        raise NotAllowedError(f"max_tries: round {number} has had its {config.max_tries} orders")
    history = book.histories.get(recipe, History())
    known = history.anchors.get(number)
    if not history.anchors or known not in {None, anchor}:
        book.begun += 1
        if book.begun > config.max_day_runs:
            told = "is new here" if known is None else "had another anchor under another run id"
            raise NotAllowedError(
                f"max_day_runs: {config.max_day_runs} runs have begun in this day, and round "
                f"{number} of this recipe {told}"
            )
        history.anchors = {each: kept for each, kept in history.anchors.items() if each < number}
    history.anchors[number], history.at = anchor, book.latest
    book.histories[recipe] = history


def permit_vote(book: Book, config: NodeConfig, *, run_id: int, round_: object) -> None:
    """Count one order to vote, which is one evaluation, or two where a run begins.

    Args:
        book: Of the node; it is changed.
        config: The owner's.
        run_id: Flower's number of the run.
        round_: As the server says; this node may not have trained in it.

    Raises:
        NotAllowedError: If the round is none or is over, or has had the votes of its tries.
    """
    number, standing = _enter(book, config, run_id, round_)
    if number > standing.voted_round:
        standing.voted_round, standing.voted = number, 0
    standing.voted += 1
    most = len(SCALES) * config.max_tries
    if standing.voted > most:
        raise NotAllowedError(f"max_tries: round {number} has had its {most} orders to vote")


def _enter(book: Book, config: NodeConfig, run_id: int, round_: object) -> tuple[int, Standing]:
    """The round, if it is one and is not over in this run."""
    if type(round_) is not int or not 1 <= round_ <= config.max_rounds:
        raise NotAllowedError(f"round: needs 1 to {config.max_rounds}; got {str(round_)[:20]}")
    standing = book.runs.get(run_id)
    if standing is None:
        if len(book.runs) >= MAX_RUN_IDS:
            raise NotAllowedError(f"run id: {MAX_RUN_IDS} runs were told apart in this day")
        standing = book.runs[run_id] = Standing()
    standing.at = book.latest
    newest = max(standing.round, standing.voted_round)
    if round_ < newest:
        raise NotAllowedError(f"round: {round_} is over; this run is in round {newest}")
    return round_, standing
