"""What a client-round will take, reckoned from the configuration alone: no weight is loaded."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass

import torch

from fedtune.recipe import Recipe
from fedtune.training.adapted import trained_parameters
from fedtune.training.base import choose_device, choose_dtype
from fedtune.training.plan import Plan
from fedtune.training.skeleton import build_skeleton
from fedtune.training.tasks import TASKS

_LONGEST = 1024  # tokens of a row, where neither recipe nor task says how long one may be
# Numbers that one layer keeps of a token for its backward pass, in units of the hidden size: those
# of attention and of a gated feed-forward block of three times the width. Reckoned, not measured.
_KEPT_BY_A_LAYER = 30
_STATES = 5  # a trained number, its gradient, Adam's two moments, the anchor it came from
_FOUR_BIT = 0.5 + 4 / 64 / 4  # a weight, and its share of the doubly quantised scales


@dataclass(frozen=True)
class Estimate:
    """One client on one device.

    Attributes:
        parameters: Of the base.
        trained: Of the adapter, with what is trained whole.
        base_bytes: The base in memory.
        adapter_bytes: Adapter, gradients, optimizer, anchor.
        activation_bytes: What one step keeps for its backward pass, at rows of full length.
        evaluation_bytes: Logits of one batch of held-out rows of full length; a reward model
            gives one number a row.
        tokens: Of one client-round, at rows of full length: the most.
        flops: Of one client-round: the most.
        upload_bytes: Of one client-round.
    """

    parameters: int
    trained: int
    base_bytes: int
    adapter_bytes: int
    activation_bytes: int
    evaluation_bytes: int
    tokens: int
    flops: float
    upload_bytes: int

    @property
    def training_bytes(self) -> int:
        """All that must fit on the device while it trains."""
        return self.base_bytes + self.adapter_bytes + self.activation_bytes


def estimate(recipe: Recipe, *, steps: int | None = None) -> Estimate:
    """Reckon what one client-round of a recipe takes.

    Args:
        recipe: Of the run.
        steps: Of the round, where the recipe says epochs: rows decide on them.

    Raises:
        OSError: If there is no configuration, or the hub does not give it.
        ValueError: If transformers knows no such model, or no module is adapted.
    """
    task = TASKS[recipe.task]
    device = choose_device(recipe.model.device)
    dtype = choose_dtype(recipe.model.dtype, device)
    skeleton = build_skeleton(recipe.model, peft_type=task.peft_type)
    config = skeleton.config.get_text_config()
    width = dtype.itemsize
    parameters = sum(each.numel() for each in skeleton.parameters())
    packed = sum(  # the head is never quantised
        each.weight.numel()
        for each in skeleton.base_model.modules()
        if isinstance(each, torch.nn.Linear)
    )
    base = parameters * width
    if recipe.model.load_in_4bit:
        base -= int(packed * (width - _FOUR_BIT))
    trained = trained_parameters(recipe)
    rows, length = _rows_and_length(recipe, config, steps)
    batch = int(recipe.train.get("per_device_train_batch_size", 8)) * (2 if task.pairs else 1)
    layer = _KEPT_BY_A_LAYER * config.hidden_size * width
    layers = config.num_hidden_layers
    checkpointed = recipe.train.get("gradient_checkpointing", True)
    each_token = layers * config.hidden_size * width + layer if checkpointed else layers * layer
    tokens = rows * length
    return Estimate(
        parameters=parameters,
        trained=trained,
        base_bytes=base,
        adapter_bytes=_STATES * 4 * trained,
        activation_bytes=batch * length * each_token,
        evaluation_bytes=_logits(recipe, length, config.vocab_size),
        tokens=tokens,
        # forward 2, backward through the activations 2, and what checkpointing computes again
        flops=(6.0 if checkpointed else 4.0) * parameters * tokens + 2.0 * trained * tokens,
        upload_bytes=4 * trained,
    )


def matmul_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product here: what nothing exceeds."""
    size = 4096 if device.type == "cuda" else 1024
    left = torch.randn(size, size, device=device, dtype=dtype)
    best = math.inf
    for _ in range(4):  # the first warms up
        started = time.perf_counter()
        product = left @ left
        float(product[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


def _logits(recipe: Recipe, length: int, vocabulary: int) -> int:
    task = TASKS[recipe.task]
    rows = recipe.evaluation.batch_size * (2 if task.pairs else 1)
    return 4 * rows * (length * vocabulary if task.peft_type == "CAUSAL_LM" else 1)


def _rows_and_length(recipe: Recipe, config: object, steps: int | None) -> tuple[int, int]:
    """Sequences of a client-round, and tokens of one at most."""
    task = TASKS[recipe.task]
    device = torch.device("cpu")
    plan = Plan.of(recipe, device, torch.float32)
    plan = dataclasses.replace(plan, local_steps=steps or plan.local_steps)
    said = recipe.train.get("max_length")
    default = next(
        (each.default for each in dataclasses.fields(task.config) if each.name == "max_length"),
        None,
    )
    longest = getattr(config, "max_position_embeddings", _LONGEST)
    known = said or (default if isinstance(default, int) else _LONGEST)
    length = min(int(known), longest)
    rows = task.rows_per_round(plan)
    if recipe.task == "grpo":
        rows *= int(recipe.train.get("num_generations", 8))
    return rows * (2 if task.pairs else 1), length
