"""Which modules an adapter would sit on, and their sizes: known without a weight."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import torch

from fedtune.adapters import lora
from fedtune.adapters.ranks import side_of
from fedtune.recipe import Recipe
from fedtune.training.base import build_skeleton
from fedtune.training.tasks import TASKS

if TYPE_CHECKING:
    from peft import PeftModel


class Adapted(NamedTuple):
    """One module under an adapter.

    Attributes:
        d_out: Rows of its B.
        d_in: Columns of its A.
        rank: Rows of its A: r, but for fused experts, of which A holds those of all.
        starts_without_a: Whether A is zero and B is drawn, as PEFT has it on an embedding; on all
            else it is the other way round.
    """

    d_out: int
    d_in: int
    rank: int
    starts_without_a: bool = False


def adapted_modules(recipe: Recipe) -> dict[str, Adapted]:
    """The modules that PEFT would adapt, by their names in the model.

    Raises:
        OSError: If there is no configuration, or the hub does not give it.
        ValueError: If transformers knows no such model, or no module is adapted.
    """
    sizes: dict[str, dict[str, int]] = {}
    embeddings = set()
    for name, parameter in _skeleton(recipe).named_parameters():
        if (found := side_of(name)) is not None:
            module, side = found[0].removeprefix("base_model.model."), found[1]
            shape = parameter.shape
            size = sizes.setdefault(module, {})
            size[side] = prod(shape[1:]) if side == "a" else shape[0]
            size[f"rank of {side}"] = shape[0] if side == "a" else shape[1]
            if f"lora_embedding_{side.upper()}" in name.split("."):
                embeddings.add(module)
    return {
        module: Adapted(size["b"], size["a"], size["rank of a"], module in embeddings)
        for module, size in sizes.items()
    }


def fused_experts(recipe: Recipe, modules: Mapping[str, Adapted]) -> str | None:
    """Why a recipe cannot have adapters on fused experts as it stands; None if it can, or has none.

    PEFT adapts the experts that a module holds in one tensor with an A and a B for all of them,
    expert slowest in A and fastest in B: their product is no expert's. Coordinate by coordinate
    such factors are as good as any.
    """
    fused = [name for name in sorted(modules) if modules[name].rank != recipe.lora.r]
    if not fused:
        return None
    told = (
        f"{fused[0]} holds experts in one tensor, and its A has {modules[fused[0]].rank} rows at "
        f"r = {recipe.lora.r}"
    )
    if recipe.lora.client_ranks is not None:
        return f"lora.client_ranks: {told}, which no lower rank is a part of; leave it out"
    if recipe.aggregator.geometry == "product":
        return (
            f"aggregator.geometry: {told}: its product BA is no expert's; write geometry: factors "
            f"under aggregator, beside the name of a rule, or leave the experts out of "
            f"lora.target_modules"
        )
    return None


def trained_parameters(recipe: Recipe) -> int:
    """Numbers that a client trains and sends: the factors, and what ``modules_to_save`` adds.

    Raises:
        OSError: If there is no configuration, or the hub does not give it.
        ValueError: If transformers knows no such model, or no module is adapted.
    """
    each = (parameter for parameter in _skeleton(recipe).parameters() if parameter.requires_grad)
    return sum(parameter.numel() for parameter in each)


def _skeleton(recipe: Recipe) -> PeftModel:
    """The model under its adapter, without a weight."""
    peft_type = TASKS[recipe.task].peft_type
    with torch.device("meta"):
        skeleton = build_skeleton(recipe.model, peft_type=peft_type)
        return lora.attach(skeleton, recipe.lora, task_type=peft_type, seed=0)
