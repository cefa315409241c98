"""PEFT's configuration of an adapter, from a recipe's section: what its folder must say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedtune.recipe import Lora

if TYPE_CHECKING:
    from peft import LoraConfig

_INITS: dict[str, Any] = {"default": True}  # PEFT's own word


def config_of(lora: Lora, *, task_type: str, ties_weights: bool = False) -> LoraConfig:
    """The configuration that a recipe's adapter is attached with.

    Args:
        lora: The recipe's section.
        task_type: PEFT's name of the task, such as ``CAUSAL_LM``.
        ties_weights: Whether layers that are tied in the base stay so.
    """
    from peft import LoraConfig

    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=lora.target_modules,
        exclude_modules=lora.exclude_modules,
        target_parameters=lora.target_parameters or None,
        layers_to_transform=lora.layers_to_transform,
        layers_pattern=lora.layers_pattern,
        modules_to_save=lora.modules_to_save or None,
        bias=lora.bias,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        init_lora_weights=_INITS.get(lora.init_lora_weights, lora.init_lora_weights),
        rank_pattern=dict(lora.rank_pattern),
        alpha_pattern=dict(lora.alpha_pattern),
        ensure_weight_tying=ties_weights,
        task_type=task_type,
    )


def facts_of(lora: Lora, *, task_type: str) -> dict[str, Any]:
    """The same as plain values by key."""
    facts: dict[str, Any] = config_of(lora, task_type=task_type).to_dict()
    return facts


def added_by_peft(lora: Lora, *, task_type: str) -> set[str]:
    """Modules that PEFT may save beside the recipe's: a classifier's head, tied embeddings."""
    from peft.utils.constants import EMBEDDING_LAYER_NAMES

    added = {"classifier", "score"} if task_type == "SEQ_CLS" else set()
    embeddings = {*EMBEDDING_LAYER_NAMES}
    return added | embeddings if embeddings & {*lora.modules_to_save} else added
