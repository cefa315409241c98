"""Whether plain PEFT makes of an adapter's folder what the model that wrote it is."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fedtune.adapters.folder import WEIGHTS
from fedtune.adapters.logits import check_logits, some_logits, some_rows
from fedtune.adapters.tensor_files import read_tensors

if TYPE_CHECKING:
    from peft import PeftModel

_INNER = re.compile(r"\.(original_module|base_layer)(?=\.)")  # what PEFT puts into a name
_ROUNDED = 8  # times the dtype's precision; in float32 1e-6 of the largest logit


def check_saved(model: PeftModel, folder: Path) -> None:
    """Load what was written by plain PEFT, and hold it against the model: tensors, then logits.

    No base is loaded for it: PEFT wraps a second tree of modules around the same weights. It costs
    a second adapter in memory, and the logits of 32 tokens, twice.

    The logits are the same to the bit but on a base below float32 with modules that are trained
    whole: PEFT loads those in the dtype of the base, and rounds them.

    Raises:
        ValueError: If the two differ.
    """
    from peft import PeftModel

    mine, stored = _tensors_of(model), read_tensors(folder / WEIGHTS)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # attaching the model's own has said it
        plain = PeftModel.from_pretrained(_bare(model, stored), folder)
    loaded = _tensors_of(plain)
    if beside := stored.keys() - loaded.keys():  # of a tied head PEFT writes into the base
        state = plain.state_dict()
        loaded |= {name: state[name] for name in beside if name in state}
    for name in sorted(mine.keys() | stored.keys() | loaded.keys()):
        each = [tensors.get(name) for tensors in (mine, stored, loaded)]
        if any(one is None for one in each) or not _same(*each):
            raise ValueError(f"{folder}: plain PEFT loads another {name} than was trained")
    rows = some_rows(model)
    dtypes = {part.dtype for part in model.parameters() if part.is_floating_point()}
    check_logits(
        some_logits(plain, rows),
        some_logits(model, rows),
        f"what plain PEFT loads of {folder}",
        apart=_ROUNDED * max(torch.finfo(dtype).eps for dtype in dtypes),
    )


def _tensors_of(model: PeftModel) -> dict[str, torch.Tensor]:
    from peft import get_peft_model_state_dict

    found: dict[str, torch.Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    return found


def _same(mine: Any, stored: Any, loaded: Any) -> bool:  # noqa: ANN401
    """Whether a tensor went to disk as it was, and came back, rounded where PEFT rounds it."""
    there = stored.to(mine.device)
    return torch.equal(there, mine) and torch.equal(loaded, there.to(loaded.dtype))


def _bare(model: PeftModel, stored: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """The base without its adapter: its modules are copies, its weights are shared.

    But for weights that PEFT will write over, since they stand in the file under their own names.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    base = model.get_base_model()
    written = {name.removeprefix("base_model.model.") for name in stored}
    own = {
        id(part)
        for name, part in base.named_parameters(remove_duplicate=False)
        if part.requires_grad or _INNER.sub("", name) in written
    }
    shared = [part for part in (*base.parameters(), *base.buffers()) if id(part) not in own]
    twin = copy.deepcopy(base, {id(part): part for part in shared})
    if hasattr(twin, "peft_config"):
        del twin.peft_config
    below: tuple[str, ...] = ()
    for name, module in list(twin.named_modules()):
        if name.startswith(below):
            continue
        if isinstance(module, BaseTunerLayer):
            inner = module.get_base_layer()
        elif isinstance(module, AuxiliaryTrainingWrapper):
            inner = module.original_module
        else:
            continue
        below = (*below, f"{name}.")
        parent, _, child = name.rpartition(".")
        setattr(twin.get_submodule(parent), child, inner)
    return twin
