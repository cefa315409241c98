"""Which code computes attention: held against the packages, the device and the architecture."""

from __future__ import annotations

from typing import Any

import torch

from fedtune.recipe import Model

KEY = "model.attn_implementation"
# By transformers' flag on the class of a model. `eager` is what every model has.
_OFFERED = {"sdpa": "_supports_sdpa", "flex_attention": "_supports_flex_attn"}
_FLASH, _OF_FLASH = "flash_attention_", "_supports_flash_attn"


def attention_of(
    section: Model,
    config: Any,  # noqa: ANN401  of any model
    kind: Any,  # noqa: ANN401  one of transformers' Auto classes
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, str]:
    """What transformers is told of attention when it builds a model; nothing where all is default.

    Where a package is missing, transformers would fetch a kernel from the hub and run it.

    Args:
        section: The recipe's.
        config: Of the model.
        kind: Which builds it.
        device: Where it computes.
        dtype: In what.

    Raises:
        ValueError: If the package or the device is not here, or the architecture does not offer it.
    """
    name = section.attn_implementation
    if name is None:
        return {}
    model = _class_of(config, kind)
    flag = _OF_FLASH if name.startswith(_FLASH) else _OFFERED.get(name)
    kernels = getattr(model, "_compatible_flash_implementations", None) or [name]
    lacks = flag is not None and not getattr(model, flag, False)
    if lacks or (flag == _OF_FLASH and name not in kernels):
        raise ValueError(f"{KEY}: {model.__name__} does not offer {name}; write eager, or null")
    if flag == _OF_FLASH:
        _check_flash(name, device, dtype)
    if name == "flex_attention" and device.type != "cuda":
        raise ValueError(f"{KEY}: flex_attention does not train on {device.type}; write sdpa")
    return {"attn_implementation": name}


def _check_flash(name: str, device: torch.device, dtype: torch.dtype) -> None:
    from transformers.modeling_flash_attention_utils import FLASH_ATTENTION_COMPATIBILITY_MATRIX

    needs = FLASH_ATTENTION_COMPATIBILITY_MATRIX[int(name.removeprefix(_FLASH))]
    least = needs.get("cuda_min_major_version", 8)  # Ampere
    if device.type != "cuda":
        raise ValueError(f"{KEY}: {name} needs a CUDA device; got {device.type}; write sdpa")
    if torch.cuda.get_device_capability(device)[0] < least:
        raise ValueError(f"{KEY}: {name} needs CUDA's compute capability {least}.0; write sdpa")
    if not needs["general_availability_check"]():
        raise ValueError(f"{KEY}: {name} needs its package, which is not installed; write sdpa")
    if dtype not in {torch.float16, torch.bfloat16}:
        raise ValueError(f"{KEY}: {name} needs model.dtype bfloat16 or float16; got {dtype}")


def _class_of(config: Any, kind: Any) -> type:  # noqa: ANN401
    """The class that transformers builds; of several the first, as it has it where none is named.

    Raises:
        ValueError: If there is none.
    """
    try:
        found = kind._model_mapping[type(config)]
    except KeyError:
        raise ValueError(f"{type(config).__name__} is not known to {kind.__name__}") from None
    first: type = found[0] if isinstance(found, list | tuple) else found
    return first
