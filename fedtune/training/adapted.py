"""Which modules an adapter would sit on, and their sizes: known without a weight."""

from __future__ import annotations

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
        starts_without_a: Whether A is zero and B is drawn, as PEFT has it on an embedding; on all
            else it is the other way round.
    """

    d_out: int
    d_in: int
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
            sizes.setdefault(module, {})[side] = prod(shape[1:]) if side == "a" else shape[0]
            if f"lora_embedding_{side.upper()}" in name.split("."):
                embeddings.add(module)
    return {
        module: Adapted(size["b"], size["a"], module in embeddings)
        for module, size in sizes.items()
    }


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
