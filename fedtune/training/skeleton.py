"""A model without its weights, built from its configuration."""

from __future__ import annotations

from typing import Any

import torch

from fedtune.recipe import Model
from fedtune.training.attention import attention_of
from fedtune.training.base import NO_CODE, choose_device, choose_dtype, kind_of, local_folder


def build_skeleton(section: Model, *, peft_type: str = "CAUSAL_LM") -> Any:  # noqa: ANN401
    """The model without its weights, built from its configuration on the meta device.

    Raises:
        OSError: If there is no configuration, or the hub does not give it.
        ValueError: If transformers knows no such model, or its attention cannot be what is asked.
    """
    from transformers import AutoConfig

    folder, kind = local_folder(section), kind_of(peft_type)
    name = section.name_or_path if folder is None else folder
    config = AutoConfig.from_pretrained(name, revision=section.revision, **NO_CODE)
    device = choose_device(section.device)
    dtype = choose_dtype(section.dtype, device)
    attention = attention_of(section, config, kind, device=device, dtype=dtype)
    if peft_type != "CAUSAL_LM":
        config.num_labels = 1
    with torch.device("meta"):
        return kind.from_config(config, **attention)


def module_names(section: Model) -> list[str]:
    """The names of the model's modules; no weight is loaded.

    Raises:
        OSError: If there is no configuration, or the hub does not give it.
        ValueError: If transformers knows no such model.
    """
    return [name for name, _ in build_skeleton(section).named_modules()]
