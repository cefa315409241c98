"""Which modules an adapter would sit on, and their sizes: known without a weight."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import torch

from fedtune.adapters import lora
from fedtune.recipe import Recipe
from fedtune.training.skeleton import build_skeleton
from fedtune.training.tasks import TASKS

if TYPE_CHECKING:
    from peft import PeftModel


class Adapted(NamedTuple):
    """One module under an adapter.

    Attributes:
        d_out: Rows of its B.
        d_in: Columns of its A.
        rows: Of its A: the rank, but for fused experts, of which A holds those of all.
        rank: As PEFT has it for this module.
        starts_without_a: Whether A is zero and B is drawn, as PEFT has it on an embedding; on all
            else it is the other way round.
    """

    d_out: int
    d_in: int
    rows: int
    rank: int
    starts_without_a: bool = False


def adapted_modules(recipe: Recipe) -> dict[str, Adapted]:
    """The modules that PEFT would adapt, by their names in the model; no weight is loaded.

    Raises:
        OSError: If there is no configuration, or the hub does not give it.
        ValueError: If transformers knows no such model, or no module is adapted.
    """
    return modules_of(_skeleton(recipe))


def modules_of(model: PeftModel) -> dict[str, Adapted]:
    """The modules that an adapter sits on, by their names in the model."""
    from peft.tuners.lora import LoraLayer

    found = {}
    for name, layer in model.get_base_model().named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        (adapter,) = layer.active_adapters
        embeds = adapter in layer.lora_embedding_A
        if embeds:
            a, b = layer.lora_embedding_A[adapter], layer.lora_embedding_B[adapter]
        else:
            a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        found[name] = Adapted(
            len(b), prod(a.shape[1:]), len(a), layer.r[adapter], starts_without_a=embeds
        )
    return found


def left_bare(recipe: Recipe) -> list[str]:
    """Linear layers that get no adapter where ``target_modules`` is all-linear, by name.

    PEFT matches by the last part of a name, and leaves out whatever is called as the output layer
    or, in some models, as a part of the experts. The output layer itself is not meant.
    """
    if recipe.lora.target_modules != "all-linear":
        return []
    from peft.tuners.lora import LoraLayer
    from transformers.pytorch_utils import Conv1D

    model = _skeleton(recipe).get_base_model()
    layers = dict(model.named_modules())
    under = tuple(f"{name}." for name, layer in layers.items() if isinstance(layer, LoraLayer))
    heads = {"score", *(n for n, m in layers.items() if m is model.get_output_embeddings())}
    return [
        name
        for name, layer in layers.items()
        if isinstance(layer, torch.nn.Linear | Conv1D)
        and not f"{name}.".startswith(under)
        and name.partition(".")[0] not in heads
        and "modules_to_save" not in name
    ]


def no_product(recipe: Recipe, modules: Mapping[str, Adapted]) -> str | None:
    """Why an adapter has no product BA that the recipe's geometry could judge; None if it has.

    PEFT adapts the experts that a module holds in one tensor with an A and a B for all of them,
    expert slowest in A and fastest in B: their product is no expert's. Coordinate by coordinate
    such factors are as good as any.
    """
    on_products = recipe.aggregator.geometry == "product"
    if on_products and recipe.lora.init_lora_weights == "orthogonal":
        return (
            "lora.init_lora_weights: orthogonal draws an A of rank r/2, and products need one of "
            "full rank: write geometry: factors under aggregator, or init_lora_weights: gaussian"
        )
    fused = [name for name, module in sorted(modules.items()) if module.rows != module.rank]
    if not fused:
        return None
    first = modules[fused[0]]
    told = (
        f"{fused[0]} holds experts in one tensor: its A has {first.rows} rows at rank {first.rank}"
    )
    if recipe.lora.client_ranks is not None:
        return f"lora.client_ranks: {told}, which no lower rank is a part of; leave it out"
    if on_products:
        return (
            f"aggregator.geometry: {told}, and its product BA is no expert's; write geometry: "
            f"factors under aggregator, or leave the experts out of lora.target_modules"
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
