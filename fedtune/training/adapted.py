"""Which modules an adapter would sit on, and their sizes: known without a weight."""

from __future__ import annotations

from math import prod

import torch

from fedtune.adapters import lora
from fedtune.adapters.ranks import side_of
from fedtune.recipe import Recipe
from fedtune.training import sft
from fedtune.training.base import build_skeleton


def adapted_modules(recipe: Recipe) -> dict[str, tuple[int, int]]:
    """(d_out, d_in) of each module that PEFT would adapt, by its name in the model.

    Raises:
        OSError: If there is no configuration, or the hub does not give it.
        ValueError: If transformers knows no such model, or no module is adapted.
    """
    with torch.device("meta"):
        model = lora.attach(
            build_skeleton(recipe.model), recipe.lora, task_type=sft.TASK_TYPE, seed=0
        )
    sizes: dict[str, dict[str, int]] = {}
    for name, parameter in model.named_parameters():
        if (found := side_of(name)) is not None:
            module, side = found
            shape = parameter.shape
            size = prod(shape[1:]) if side == "a" else shape[0]
            sizes.setdefault(module.removeprefix("base_model.model."), {})[side] = size
    return {module: (size["b"], size["a"]) for module, size in sizes.items()}
