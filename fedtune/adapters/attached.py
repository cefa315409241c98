"""What of a recipe's lora section PEFT would pass over in silence, seen on the model it made."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from fedtune.recipe import Lora
from fedtune.recipe.errors import nearest
from fedtune.recipe.lora import matches

if TYPE_CHECKING:
    from peft import PeftModel


def check_attached(model: PeftModel, lora: Lora) -> None:
    """Refuse names that are of nothing, biases that are not there, and a base that would round.

    Raises:
        ValueError: Naming the key of the recipe.
    """
    adapted = sorted(_adapted(model))
    for problem in (
        *_of_nothing(model, lora, adapted),
        *_biases(model, lora),
        *_rounded(model, lora),
    ):
        raise ValueError(problem)


def _adapted(model: PeftModel) -> Iterator[str]:
    """The names that PEFT looks up: of modules, and of parameters in them."""
    from peft.tuners.lora import LoraLayer

    for name, layer in model.get_base_model().named_modules():
        if isinstance(layer, LoraLayer):
            bare = name.replace(".base_layer", "")
            parameter = getattr(layer, "parameter_name", None)
            yield bare if parameter is None else f"{bare}.{parameter}"


def _of_nothing(model: PeftModel, lora: Lora, adapted: list[str]) -> Iterator[str]:
    ends = {name.rpartition(".")[2] for name in adapted}
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(lora, key):
            if not any(matches(pattern, name) for name in adapted):
                yield f"lora.{key}: no adapted module matches {pattern!r}; {nearest(pattern, ends)}"
    for name in lora.target_parameters:
        if not any(_is_of(each, name) for each in adapted):
            yield f"lora.target_parameters: no parameter {name!r} of a module that takes an adapter"
    for layer in lora.layers_to_transform or ():
        if not any(f".{layer}." in name for name in adapted):
            yield f"lora.layers_to_transform: no adapted module is in a layer {layer}, from 0"
    excluded = lora.exclude_modules
    every = [name.replace(".base_layer", "") for name, _ in model.get_base_model().named_modules()]
    if isinstance(excluded, str) and not any(re.fullmatch(excluded, each) for each in every):
        yield f"lora.exclude_modules: no module matches {excluded!r}; write [{excluded}] for a name"
    for name in excluded if isinstance(excluded, list) else ():
        if not any(_is_of(each, name) for each in every):
            known = {each.rpartition(".")[2] for each in every if each}
            yield f"lora.exclude_modules: no module {name!r}; {nearest(name, known)}"


def _is_of(full: str, name: str) -> bool:
    return full == name or full.endswith(f".{name}")


def _biases(model: PeftModel, lora: Lora) -> Iterator[str]:
    if lora.bias == "none":
        return
    if not any(
        name.endswith(".bias") and part.requires_grad and ".lora_" not in name
        for name, part in model.named_parameters()
    ):
        yield f"lora.bias: {lora.bias} finds no bias in this model; write none"


def _rounded(model: PeftModel, lora: Lora) -> Iterator[str]:
    """A skeleton has the format in which its weights lie on disk, whatever they are loaded in."""
    reason, parts = lora.needs_float32, list(model.parameters())
    if reason is not None and any(
        part.dtype != torch.float32 and not part.is_meta for part in parts
    ):
        yield reason
