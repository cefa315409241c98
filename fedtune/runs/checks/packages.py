"""Packages that keys under ``train`` need beside what fedtune installs."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping

# What the name of an optimizer in TRL's `optim` begins or ends with, and the module that it needs.
_BY_BEGINNING = {
    "galore": "galore_torch", "apollo": "apollo_torch", "lomo": "lomo_optim",
    "adalomo": "lomo_optim", "schedule_free": "schedulefree", "grokadamw": "grokadamw",
    "stable_adamw": "optimi", "paged": "bitsandbytes", "ademamix": "bitsandbytes",
    "rmsprop_bnb": "bitsandbytes", "adamw_torch_8bit": "torchao", "adamw_torch_4bit": "torchao",
    "adamw_anyprecision": "torchdistx", "adamw_apex": "apex", "adamw_bnb": "bitsandbytes",
}  # fmt: skip
_BY_END = {"_8bit": "bitsandbytes"}
_FLAGS = {"use_liger_kernel": "liger_kernel", "use_vllm": "vllm"}


def missing_packages(train: Mapping[str, object]) -> Iterator[str]:
    """What is not installed here, a line for each key that needs it."""
    optim = str(train.get("optim") or "")
    needed = {f"train.{key}": module for key, module in _FLAGS.items() if train.get(key)}
    by_name = [module for start, module in _BY_BEGINNING.items() if optim.startswith(start)]
    by_name += [module for end, module in _BY_END.items() if optim.endswith(end)]
    if by_name:
        needed["train.optim"] = by_name[0]
    for key, module in needed.items():
        if not _is_here(module):
            value = f" {optim}" if key == "train.optim" else ""
            yield f"{key}:{value} needs the package {module}, which is not installed; leave it out"


def _is_here(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
