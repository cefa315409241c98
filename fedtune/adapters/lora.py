"""Attach a LoRA adapter to a base model; read it, write it, save it, every key checked."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fedtune.adapters.attached import check_attached
from fedtune.adapters.configuration import config_of
from fedtune.adapters.layout import check_same_names
from fedtune.adapters.part import Part
from fedtune.adapters.tensor_files import read_tensors
from fedtune.recipe import Lora

if TYPE_CHECKING:
    from peft import PeftModel


def attach(base: Any, lora: Lora, *, task_type: str, seed: int) -> PeftModel:  # noqa: ANN401
    """Wrap a base model with a fresh adapter, float32 on any base: A from ``seed``, B zero.

    Args:
        base: A transformers model without an adapter.
        lora: The recipe's section.
        task_type: PEFT's name of the task, such as ``CAUSAL_LM``.
        seed: Seeds A, on whatever device.

    Raises:
        ValueError: If the base already carries an adapter (PEFT would reset it with a mere
            warning), no module bears a target's name, or another name of the section is of
            nothing (`check_attached`).
    """
    from peft import PeftModel, get_peft_model

    if isinstance(base, PeftModel) or getattr(base, "peft_config", None):
        raise ValueError("the base already carries an adapter; unload it before attaching another")
    config = config_of(lora, task_type=task_type, ties_weights=_saves_tied(base, lora))
    with torch.random.fork_rng(), warnings.catch_warnings():
        for harmless in _HARMLESS:
            warnings.filterwarnings("ignore", harmless)
        torch.manual_seed(seed)
        try:
            model = get_peft_model(base, config)
        except AttributeError as error:
            if lora.init_lora_weights == "default":
                raise
            raise ValueError(
                f"lora.init_lora_weights: PEFT cannot begin with {lora.init_lora_weights} here: "
                f"{error}; write default"
            ) from error
    check_attached(model, lora)
    _train_in_float32(model)
    return model


def read(model: PeftModel) -> dict[str, Tensor]:
    """The adapter's tensors by PEFT's names on disk: float32 copies on the CPU, names sorted."""
    live = _live(model)
    return {name: live[name].detach().to("cpu", torch.float32, copy=True) for name in sorted(live)}


def write(model: PeftModel, tensors: Mapping[str, Tensor], *, adapter: str = "default") -> None:
    """Overwrite an adapter, in place.

    PEFT's own loader does nothing and says nothing about names it does not know.

    Raises:
        ValueError: If a name or a shape is not the adapter's; then nothing is written.
    """
    live = _live(model, adapter)
    check_same_names(tensors, list(live))
    for name, target in live.items():
        if tensors[name].shape != target.shape:
            raise ValueError(
                f"{name} needs shape {tuple(target.shape)}; got {tuple(tensors[name].shape)}"
            )
    with torch.no_grad():
        for name, target in live.items():
            target.copy_(tensors[name])


@contextlib.contextmanager
def training_only(model: PeftModel, part: Part) -> Iterator[None]:
    """Let only a part's tensors be trained: those of the other factor take no gradient."""
    fixed = [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not part.holds(name)
    ]
    for parameter in fixed:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in fixed:
            parameter.requires_grad_(True)


def save(model: PeftModel, folder: Path) -> None:
    """Write a plain PEFT folder, which `PeftModel.from_pretrained` loads without fedtune.

    Raises:
        ValueError: If plain PEFT makes another adapter of what was written
            (`fedtune.adapters.saved`).
    """
    from fedtune.adapters.saved import check_saved

    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's blank form of a model card
    check_saved(model, folder)


def load(model: PeftModel, folder: Path) -> dict[str, Tensor]:
    """The tensors of a PEFT folder, by the names that `read` gives; the model is not touched.

    Raises:
        ValueError: If the file is damaged.
    """
    stored = _stored(folder)
    twins = set(_state(model)) - set(_live(model))
    return {name: stored[name] for name in sorted(stored) if name not in twins}


def put_on(base: Any, folder: Path) -> PeftModel:  # noqa: ANN401
    """Wrap a base model with the adapter of a PEFT folder, each tensor of it float32.

    Raises:
        ValueError: If the file is damaged, or its tensors are not those of the adapter that its
            configuration describes.
    """
    from peft import PeftConfig, get_peft_model

    config = PeftConfig.from_pretrained(folder)
    config.base_model_name_or_path = None  # the base may have been moved, and PEFT would warn
    with torch.random.fork_rng(), warnings.catch_warnings():  # a fresh adapter is drawn first
        for harmless in _HARMLESS:
            warnings.filterwarnings("ignore", harmless)
        model = get_peft_model(base, config)
    _train_in_float32(model)
    write(model, load(model, folder))
    return model


_HARMLESS = (
    ".*gradient_checkpointing.*",  # PEFT asks by the name that transformers had before
    "fan_in_fan_out is set to",  # PEFT sets it as GPT-2's layers need it
    "The following (rank|alpha)_pattern keys",  # its own for experts, by a parameter's name
    "You have passed exclude_modules",  # what a section names is looked at after it
    "target_parameters=",
)


def _train_in_float32(model: PeftModel) -> None:
    """Make what is trained whole float32, as PEFT makes A and B alone.

    In bfloat16 a step below 1/256 of a weight would be lost. The base stays as it is: such a module
    takes float32 in, and hands on what the base's own would have.
    """
    from peft.utils.other import ModulesToSaveWrapper

    for wrapper in [part for part in model.modules() if isinstance(part, ModulesToSaveWrapper)]:
        dtype = next(wrapper.original_module.parameters()).dtype
        for module in wrapper.modules_to_save.values():
            if dtype != torch.float32:
                module.float()
                module.register_forward_pre_hook(_takes(torch.float32), with_kwargs=True)
                module.register_forward_hook(_gives(dtype))


def _takes(dtype: torch.dtype) -> Callable[..., Any]:
    return lambda module, args, kwargs: (_cast(args, dtype), _cast(kwargs, dtype))


def _gives(dtype: torch.dtype) -> Callable[..., Any]:
    return lambda module, args, output: _cast(output, dtype)


def _cast(value: Any, dtype: torch.dtype) -> Any:  # noqa: ANN401
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, tuple):
        return tuple(_cast(part, dtype) for part in value)
    if isinstance(value, dict):
        return {key: _cast(part, dtype) for key, part in value.items()}
    return value


def _saves_tied(base: Any, lora: Lora) -> bool:  # noqa: ANN401
    from peft.utils.constants import EMBEDDING_LAYER_NAMES

    # PEFT knows tied layers by these names, and warns if it is to tie and finds neither.
    tied = getattr(base.config.get_text_config(), "tie_word_embeddings", False)
    return bool(tied) and any(
        name.split(".")[-1] in EMBEDDING_LAYER_NAMES for name in lora.modules_to_save
    )


def _stored(folder: Path) -> dict[str, Tensor]:
    return read_tensors(folder / "adapter_model.safetensors")


def _state(model: PeftModel, adapter: str = "default") -> dict[str, Tensor]:
    from peft import get_peft_model_state_dict

    # These share memory with the parameters, so that writing to them writes the adapter.
    state: dict[str, Tensor] = get_peft_model_state_dict(
        model, adapter_name=adapter, save_embedding_layers=False
    )
    return state


def _live(model: PeftModel, adapter: str = "default") -> dict[str, Tensor]:
    # Tied tensors come under two names: the first in order stands for both.
    state, owners = _state(model, adapter), dict[int, str]()
    for name in sorted(state):
        owners.setdefault(state[name].data_ptr(), name)
    return {name: state[name] for name in owners.values()}
