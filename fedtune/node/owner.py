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
from fedtune.messages.node_errors import NotAllowedError, failure
from fedtune.messages.recipe_once import MAX_RECIPE_BYTES
from fedtune.node.allowed_keys import PLAIN, key_refusals
from fedtune.node.allowed_models import allowed_model
from fedtune.node.client import MOST_TRAINED, OWN_ROWS, TELLS_ROWS
from fedtune.node.limits import exceeded, steps_here, uses
from fedtune.recipe import Recipe, RecipeError, parse_recipe
from fedtune.recipe.data import EMBEDDED
from fedtune.recipe.evaluation import EntryPointScore
from fedtune.recipe.reward import EntryPointReward, ModelReward

NodeWords = dict[str, bool | int | float | str]
MAX_STATES = 20  # of an optimizer that a node keeps on its disk


def adapt(recipe_json: str, config: NodeConfig, folder: Path) -> str:
    """The recipe as it is run on this node.

    The sections that the server alone reads are replaced before anything of them is read.

    Args:
        recipe_json: The server's.
        config: The owner's.
        folder: The node's own, for what it keeps.

    Raises:
        NotAllowedError: With everything in it that the owner does not allow.
        ValueError: If it is no recipe.
    """
    if len(recipe_json) > MAX_RECIPE_BYTES:
        raise NotAllowedError(f"a recipe needs at most {MAX_RECIPE_BYTES} bytes")
    recipe = _parsed(recipe_json)
    if problems := list(refusals(recipe, config)):
        raise NotAllowedError(f"this node's owner does not allow it: {'; '.join(problems)}")
    model = allowed_model(recipe.model, config.allowed_models)
    owners = {"device": config.device.partition(":")[0]}
    federation = {"threads_per_client": config.threads, "deployment": None}
    changes: dict[str, Any] = {
        "model": model.model_copy(update=owners),
        "federation": recipe.federation.model_copy(update=federation),
        "output_dir": folder / "run",
    }
    own: dict[str, Any] = {"eval_source": None}  # the server's own, and its to measure
    if config.data is not None:
        own |= {"source": str(config.data), "columns": config.columns}
    changes["data"] = recipe.data.model_copy(update=own)
    adapted = recipe.model_copy(update=changes)
    if adapted.federation.local_steps is None:
        _refuse_long_epochs(adapted, config)
    return adapted.model_dump_json()


def _refuse_long_epochs(recipe: Recipe, config: NodeConfig) -> None:
    """Refuse epochs over the node's own rows that are more steps than its owner allows.

    What is said holds no number that the rows decide on.
    """
    over = {use.key for use in uses(recipe, config, steps_here(recipe, config))
            if use.amount > use.most}  # fmt: skip
    if over:
        keys = ", ".join(sorted(over))
        raise NotAllowedError(
            "this node's owner does not allow it: local_epochs: on this node's rows more work than "
            f"allowed ({keys})"
        )


def _parsed(recipe_json: str) -> Recipe:
    try:
        raw = json.loads(recipe_json)
        if not isinstance(raw, dict):
            raise RecipeError([f"needs a mapping of sections; got {type(raw).__name__}"])
        return parse_recipe({**raw, **PLAIN})
    except (ValueError, RecursionError) as error:  # a RecipeError is one, and so is JSON's own
        raise failure("no-recipe", str(error)) from error


def refusals(recipe: Recipe, config: NodeConfig) -> Iterator[str]:
    """What of a recipe the owner does not allow, a line each."""
    yield from exceeded(recipe, config)
    if recipe.federation.inner_optimizer == "keep" and recipe.checkpoint.keep > MAX_STATES:
        yield f"checkpoint.keep: {recipe.checkpoint.keep} of at most {MAX_STATES}"
    if recipe.attack is not None:
        yield "attack: this is no simulation"
    if config.data is None and recipe.data.source not in EMBEDDED:
        yield (f"data.source: nothing but {' or '.join(EMBEDDED)}, while {NODE_FILE} names no data")
    if config.data is None and recipe.data.columns:
        yield f"data.columns: the owner's to say, and {NODE_FILE} names no data"
    yield from _files(recipe)
    try:
        allowed_model(recipe.model, config.allowed_models)
    except NotAllowedError as error:
        yield str(error)
    yield from key_refusals(recipe.task, json.loads(recipe.model_dump_json()))


def _files(recipe: Recipe) -> Iterator[str]:
    """What would name a file of this node, or import a function into it."""
    if recipe.initial_adapter is not None:
        yield "initial_adapter: an adapter comes with the anchor"
    if recipe.reference != "base":
        yield f"reference: base alone; got {recipe.reference[:80]!r}"
    for reward in recipe.rewards:
        if isinstance(reward, ModelReward | EntryPointReward):
            yield f"rewards: {reward.name} is not taken from a recipe"
    if any(isinstance(score, EntryPointScore) for score in recipe.evaluation.scores):
        yield "evaluation.scores: entry_point is not taken from a recipe"


def adapter_of(folder: Path) -> Callable[[str], tuple[str, NodeWords]]:
    """`adapt` for a node's folder, whose file is read anew at each message.

    Beside the recipe stands what the ClientApp is told in Flower's node config.
    """

    def adapted(recipe_json: str) -> tuple[str, NodeWords]:
        config = load_node_config(folder)
        told: NodeWords = {
            OWN_ROWS: config.data is not None,
            MOST_TRAINED: config.max_trained_parameters,
            TELLS_ROWS: config.tell_row_counts,
        }
        if config.privacy is not None:
            told |= config.privacy.model_dump()
        return adapt(recipe_json, config, folder), told

    return adapted
