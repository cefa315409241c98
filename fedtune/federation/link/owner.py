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
from fedtune.federation.link.limits import exceeded
from fedtune.federation.link.not_allowed import NotAllowedError
from fedtune.recipe import Recipe, parse_recipe
from fedtune.recipe.reward import EntryPointReward, ModelReward
from fedtune.training.base import find_folder, hash_weights

NodeWords = dict[str, bool | int | float | str]
EMBEDDED = "python-docs"
MAX_RECIPE_BYTES = 2**18


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
    yield from exceeded(recipe, config)
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
