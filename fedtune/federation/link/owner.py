"""What a node does with a recipe that came over the network: what its owner allowed, or nothing.

Nothing in it reaches the node's files. Rows, device, threads and folders are the owner's; a model
is one of those that the owner named; what else would name a file or a function is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fedtune.deployment.node import NODE_FILE, NodeConfig, load_node_config
from fedtune.federation.client import OWN_ROWS
from fedtune.federation.defence.candidate import SCALES
from fedtune.recipe import Recipe, parse_recipe
from fedtune.recipe.reward import EntryPointReward, ModelReward
from fedtune.training.base import find_folder, hash_weights

NodeWords = dict[str, bool | int | float | str]
EMBEDDED = "python-docs"
MAX_RECIPE_BYTES = 2**18


class NotAllowedError(ValueError):
    """What a recipe asks of this node is not what its owner allowed."""


def adapt(recipe_json: str, config: NodeConfig, folder: Path) -> str:
    """The recipe as it is run on this node.

    Args:
        recipe_json: The server's.
        config: The owner's.
        folder: The node's own, for what it keeps.

    Raises:
        NotAllowedError: With everything in it that the owner does not allow.
        RecipeError: If it is no recipe.
    """
    if len(recipe_json) > MAX_RECIPE_BYTES:
        raise NotAllowedError(f"a recipe needs at most {MAX_RECIPE_BYTES} bytes")
    raw: dict[str, Any] = json.loads(recipe_json)
    recipe = parse_recipe(raw)
    if problems := list(refusals(recipe, config)):
        raise NotAllowedError(f"this node's owner does not allow it: {'; '.join(problems)}")
    changes: dict[str, Any] = {
        "model": {**raw["model"], "device": config.device.partition(":")[0]},
        "federation": {**raw["federation"], "threads_per_client": config.threads},
        "output_dir": str(folder / "run"),
        "report_to": [],
    }
    if config.data is not None:
        changes["data"] = {**raw["data"], "source": str(config.data)}
    return parse_recipe({**raw, **changes}).model_dump_json()


def refusals(recipe: Recipe, config: NodeConfig) -> Iterator[str]:
    """What of a recipe the owner does not allow, a line each."""
    federation = recipe.federation
    if federation.local_steps > config.max_local_steps:
        yield f"local_steps: {federation.local_steps} of at most {config.max_local_steps}"
    if federation.num_rounds > config.max_rounds:
        yield f"num_rounds: {federation.num_rounds} of at most {config.max_rounds}"
    if recipe.attack is not None:
        yield "attack: this is no simulation"
    if config.data is None and recipe.data.source != EMBEDDED:
        yield f"data.source: nothing but {EMBEDDED}, while {NODE_FILE} names no data"
    yield from _files(recipe)
    yield from _model(recipe, config)


def _files(recipe: Recipe) -> Iterator[str]:
    """What would name a file of this node, or import a function into it."""
    if recipe.initial_adapter is not None:
        yield "initial_adapter: an adapter comes with the anchor"
    if recipe.reference not in ("base", None):
        yield f"reference: base alone; got {str(recipe.reference)[:80]!r}"
    for reward in recipe.rewards:
        if isinstance(reward, ModelReward | EntryPointReward):
            yield f"rewards: {reward.name} is not taken from a recipe"


def _model(recipe: Recipe, config: NodeConfig) -> Iterator[str]:
    name = recipe.model.name_or_path
    if name in config.allowed_models:
        return
    hashes = {each for each in config.allowed_models if each.startswith("sha256:")}
    said = f"model.name_or_path: {name[:80]!r} is not in allowed_models"
    if not hashes or name.startswith(("/", ".", "~")):
        yield said
        return
    try:
        found = f"sha256:{hash_weights(find_folder(recipe.model))}"
    except (OSError, ValueError):
        yield said
        return
    if found not in hashes:
        yield f"{said}, nor are its weights, {found}"


class Patience:
    """How often a run may have this node train and vote, and in what order, whoever asks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._run_id, self._orders = 0, 0
        self._round, self._anchor_hash = 0, ""
        self._votes = 0

    def spend(self, run_id: int, round_: object, anchor_hash: object) -> None:
        """Count one order to train.

        Args:
            run_id: Flower's number of the run; a run that goes on after a stop has another.
            round_: As the server says.
            anchor_hash: Of what it is to start from, as the server says.

        Raises:
            NotAllowedError: If the round is none, or is over, or was begun from another anchor; or
                if the owner's ``max_rounds`` are used up: a round that is asked for again counts
                again.
        """
        round_, most = self._enter(run_id, round_)
        if round_ == self._round and anchor_hash != self._anchor_hash:
            raise NotAllowedError(f"round: {round_} was begun from another anchor")
        self._round, self._anchor_hash = round_, str(anchor_hash)
        self._orders += 1
        if self._orders > most:
            raise NotAllowedError(f"max_rounds: this run has had its {most} orders to train")

    def spend_vote(self, run_id: int, round_: object) -> None:
        """Count one order to vote, which is one evaluation, or two where a run begins.

        Args:
            run_id: As in `spend`.
            round_: As the server says; this node may not have trained in it.

        Raises:
            NotAllowedError: If the round is none, or is over, or all votes of ``max_rounds`` rounds
                are used up.
        """
        _, most = self._enter(run_id, round_)
        self._votes += 1
        if self._votes > len(SCALES) * most:
            raise NotAllowedError(
                f"max_rounds: this run has had its {len(SCALES) * most} orders to vote"
            )

    def _enter(self, run_id: int, round_: object) -> tuple[int, int]:
        """The round, if it is one and not over, and the owner's most; another run begins anew."""
        most = load_node_config(self._folder).max_rounds
        if type(round_) is not int or not 1 <= round_ <= most:
            raise NotAllowedError(f"round: needs 1 to {most}; got {str(round_)[:20]}")
        if run_id != self._run_id:
            self._run_id, self._orders, self._votes = run_id, 0, 0
            self._round, self._anchor_hash = 0, ""
        if round_ < self._round:
            raise NotAllowedError(f"round: {round_} is over; this run is in round {self._round}")
        return round_, most


def adapter_of(folder: Path) -> Callable[[str], tuple[str, NodeWords]]:
    """`adapt` for a node's folder, whose file is read anew at each message.

    Beside the recipe stands what the ClientApp is told in Flower's node config.
    """

    def adapted(recipe_json: str) -> tuple[str, NodeWords]:
        config = load_node_config(folder)
        told: NodeWords = {OWN_ROWS: config.data is not None}
        if config.privacy is not None:
            told |= config.privacy.model_dump()
        return adapt(recipe_json, config, folder), told

    return adapted
