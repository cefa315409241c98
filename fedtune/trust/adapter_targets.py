"""Whether a run's adapter goes where its recipe says, and counts as often; experts are PEFT's own.

A model whose experts lie in one tensor has another configuration on disk than was asked for: PEFT
writes the experts' parameters, and rank and alpha of those that hold several matrices, each that
many times the recipe's. No pattern of a recipe is looked for in a name here: it may be a
stranger's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from fedtune.recipe import Lora

_EXPERTS = ".*\\."  # how PEFT's own patterns begin
_MATRICES = 2  # in one of PEFT's fused tensors: gate and up


def are_targets(said: object, tensors: Collection[str], lora: Lora) -> bool:
    """Whether names of modules are those that have tensors: no other, and none left out."""
    if not isinstance(said, list) or not all(isinstance(each, str) for each in said):
        return False
    modules = _modules(tensors)
    excluded = lora.exclude_modules
    if isinstance(excluded, str):  # a pattern: which of the names it leaves out is not known
        beside = set(said)
    else:
        beside = {each for each in said if any(_is_of(each, name) for name in excluded or ())}
    of_parameters = {module for module in modules if _holds_parameter(module, lora, tensors)}
    return all(
        module in of_parameters or any(_is_of(module, each) for each in said) for module in modules
    ) and all(each in beside or any(_is_of(module, each) for module in modules) for each in said)


def are_parameters(said: object, tensors: Collection[str], lora: Lora) -> bool:
    """Whether parameters are the recipe's, and beside them those of experts that have tensors."""
    if said is None:
        return not lora.target_parameters
    if not isinstance(said, list) or not all(isinstance(each, str) for each in said):
        return False
    return set(lora.target_parameters) <= set(said) and (
        set(said) == set(lora.target_parameters) or any(".experts." in name for name in tensors)
    )


def are_patterns(key: str, said: Mapping[str, object], lora: Lora) -> bool:
    """Whether ranks, or alphas, by module are the recipe's; of experts the product counts as much.

    Args:
        key: rank_pattern or alpha_pattern.
        said: The whole configuration.
        lora: The recipe's section.
    """
    own = lora.rank_pattern if key == "rank_pattern" else lora.alpha_pattern
    found = said.get(key) or {}
    if not isinstance(found, dict):
        return False
    usual = lora.r if key == "rank_pattern" else lora.lora_alpha
    added = {each: value for each, value in found.items() if each not in own}
    return {each: found[each] for each in found if each in own} == own and all(
        each.startswith(_EXPERTS) and value == _MATRICES * usual for each, value in added.items()
    )


def _modules(tensors: Collection[str]) -> set[str]:
    found = {name.partition(".lora_")[0] for name in tensors if ".lora_" in name}
    return {name.replace(".base_layer", "") for name in found}


def _holds_parameter(module: str, lora: Lora, tensors: Collection[str]) -> bool:
    """Whether a module has an adapter as the holder of a parameter: a recipe's, or experts."""
    holders = {name.rpartition(".")[0] for name in lora.target_parameters}
    if any(not holder or _is_of(module, holder) for holder in holders):
        return True
    layer = module.rpartition(".")[0]  # experts, and the router beside them
    return any(name.startswith(f"{layer}.experts.") for name in tensors)


def _is_of(module: str, target: str) -> bool:
    return module == target or module.endswith(f".{target}")
