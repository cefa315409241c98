"""What a recipe would do on a node: for its owner, before the node joins, and without a server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch

from fedtune.deployment.node import NodeConfig, load_node_config
from fedtune.messages.node_errors import NotAllowedError
from fedtune.node.allowed_models import is_allowed
from fedtune.node.budget import look_up
from fedtune.node.limits import Use, steps_here, uses, whole_run
from fedtune.node.owner import adapt, refusals
from fedtune.recipe import Recipe, parse_recipe
from fedtune.training.base import (
    check_model,
    choose_device,
    choose_dtype,
    find_folder,
    find_here,
    find_weights,
)
from fedtune.training.estimate import Estimate, estimate, matmul_speed
from fedtune.training.model_hash import hash_model
from fedtune.training.rewards import check_rewards
from fedtune.training.scores import check_scores
from fedtune.training.sources import load_rows
from fedtune.training.tasks import TASKS

_SIZE = "max_trained_parameters"


@dataclass(frozen=True)
class Weights:
    """The weight files of a model, as they lie on this machine.

    Attributes:
        folder: That holds them.
        bytes: All of them.
        hash: SHA-256 of all files of the model, as ``allowed_models`` takes it.
    """

    folder: Path
    bytes: int
    hash: str


@dataclass(frozen=True)
class Outlook:
    """What to expect of a recipe here.

    Attributes:
        recipe: As it would be run: the owner's rows, device, threads and folder.
        refused: What the owner does not allow, a line each; then no more was looked at than whether
            the model is here.
        problems: What would fail here, a line each.
        uses: Of the owner's limits, by one order and by the whole run.
        weights: Of the model; None if it is not here.
        rows: Of the owner's own; None if the recipe's source is read.
        needs: What a client-round takes; None where only loading the model could tell.
        free_bytes: Memory of the device that is not in use.
        speed: Floating-point operations a second of a matrix product there.
    """

    recipe: Recipe
    refused: list[str]
    problems: list[str]
    uses: list[Use] = field(default_factory=list)
    weights: Weights | None = None
    rows: int | None = None
    needs: Estimate | None = None
    free_bytes: int = 0
    speed: float = 0.0

    @property
    def may_join(self) -> bool:
        """Whether nothing is known to stand against it."""
        return not (self.refused or self.problems)


def look_ahead(recipe: Recipe, folder: Path) -> Outlook:
    """Find out what a recipe would do on the node of a folder; no weight is loaded.

    Args:
        recipe: The launcher's.
        folder: The node's, with ``node.yaml``.

    Raises:
        RecipeError: If ``node.yaml`` is wrong.
        FileNotFoundError: If there is none.
    """
    config = load_node_config(folder)
    if refused := list(refusals(recipe, config)):
        return Outlook(recipe, refused, list(_to_allow(recipe, config)))
    try:
        own = parse_recipe(adapt(recipe.model_dump_json(), config, folder))
        steps = steps_here(own, config)
    except (NotAllowedError, OSError, ValueError) as error:  # epochs are counted over the rows
        return Outlook(recipe, [str(error)], [])
    of_run = whole_run(own, config, look_up(folder), steps)
    used = [*uses(own, config, steps), *of_run]
    problems = [
        f"{use.key}: {use.amount:,} {use.what}; {use.most:,} are left of this day"
        for use in of_run
        if use.amount > use.most
    ]
    weights, rows = _weights(own, problems), _rows(own, config, problems)
    device = choose_device(own.model.device)
    try:
        needs = estimate(own, steps=steps)
        free, speed = (
            free_memory(device),
            matmul_speed(device, choose_dtype(own.model.dtype, device)),
        )
    except (OSError, ValueError):  # `_weights` has said it, or only loading can tell
        return Outlook(own, [], problems, used, weights, rows)
    except (RuntimeError, AssertionError) as error:  # torch's words for a device that is not there
        problems.append(f"device: {config.device} does not answer: {str(error).splitlines()[0]}")
        return Outlook(own, [], problems, used, weights, rows)
    size = Use(_SIZE, "trained parameters", needs.trained, config.max_trained_parameters)
    used.append(size)
    if size.amount > size.most:
        problems.append(f"{size.told} ({size.key})")
    work_s = own.federation.num_rounds * needs.flops / speed
    if work_s > config.max_day_s:
        problems.append(
            f"max_day_s: the whole run takes {work_s:,.0f} s or more; {config.max_day_s:,} a day "
            "are allowed"
        )
    if needs.training_bytes > free:
        problems.append(
            f"memory: training needs about {needs.training_bytes / 1e9:.2g} GB; got "
            f"{free / 1e9:.2g} GB free on {device.type}"
        )
    return Outlook(own, [], problems, used, weights, rows, needs, free, speed)


def _to_allow(recipe: Recipe, config: NodeConfig) -> Iterator[str]:
    """What an owner would write to allow a model that is here; a server is never told."""
    if is_allowed(recipe.model, config.allowed_models):
        return
    folder = find_here(recipe.model)
    if folder is not None:
        yield f"model: of what is here, allowed_models would name sha256:{hash_model(folder)}"


def free_memory(device: torch.device) -> int:
    """Bytes that are not in use on a device; of a CPU, the machine's."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _weights(recipe: Recipe, problems: list[str]) -> Weights | None:
    try:
        check_model(recipe.model)
        folder = find_folder(recipe.model)
        size = sum(file.stat().st_size for file in find_weights(folder))
        return Weights(folder, size, f"sha256:{hash_model(folder)}")
    except OSError as error:
        problems.append(f"model: {error}")
        return None


def _rows(recipe: Recipe, config: NodeConfig, problems: list[str]) -> int | None:
    """How many rows the owner brings."""
    try:
        rows = load_rows(recipe.data, TASKS[recipe.task], seed=recipe.federation.seed)
        check_rewards(recipe.rewards, rows.column_names)
        check_scores(recipe.evaluation.scores, rows)
    except (OSError, ValueError) as error:
        problems.append(f"data: {error}")
        return None
    return None if config.data is None else len(rows)
