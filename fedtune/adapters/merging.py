"""Fold an adapter into its base; weights that two layers shared are parted where they must be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fedtune.adapters.folder import WEIGHTS
from fedtune.adapters.logits import check_logits, some_logits, some_rows
from fedtune.adapters.tensor_files import read_tensors

if TYPE_CHECKING:
    from peft import PeftModel


def merge(base: Any, folder: Path) -> tuple[Any, Tensor]:  # noqa: ANN401
    """Load a PEFT folder onto a base and fold it into the weights; the base is changed.

    Where the adapter changes an embedding or a head that share their weights, they share them no
    more: a change of one of the two is none of the other.

    Returns:
        The merged model, and the rows of token ids on which it was held against base and adapter.

    Raises:
        ValueError: If the file is damaged, or the folded model gives other logits than base and
            adapter (`check_logits`).
    """
    from peft import PeftModel

    read_tensors(folder / WEIGHTS)  # PEFT would read it too, but not say which file is damaged
    model = PeftModel.from_pretrained(base, folder)
    rows = some_rows(model)
    expected = some_logits(model, rows)
    _part(model)
    merged = model.merge_and_unload(safe_merge=True)
    _say_whether_tied(merged)
    merged.config.use_cache = True
    check_logits(some_logits(merged, rows), expected, "the merged model")
    return merged, rows


def _part(model: PeftModel) -> None:
    """Give the head a weight of its own, where it shares the embedding's and one has a LoRA."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = model.get_base_model()
    ends = [base.get_input_embeddings(), base.get_output_embeddings()]
    if None in ends or not any(isinstance(each, BaseTunerLayer) for each in ends):
        return
    bare = [each.get_base_layer() if isinstance(each, BaseTunerLayer) else each for each in ends]
    if bare[0].weight is bare[1].weight:
        bare[1].weight = torch.nn.Parameter(bare[0].weight.detach().clone())


def _say_whether_tied(merged: Any) -> None:  # noqa: ANN401
    """Have the configuration say so where head and embedding are two by now."""
    ends = [merged.get_input_embeddings(), merged.get_output_embeddings()]
    if None not in ends and ends[0].weight is not ends[1].weight:
        for config in (merged.config, merged.config.get_text_config()):
            config.tie_word_embeddings = False
