"""Rows laid one after another into sequences of one length, as TRL packs them, and kept apart.

Nothing but the positions tells a model where a row begins. Flash attention and transformers' masks
for sdpa and eager go by them; architectures with masks or states of their own do not, and would
read one row while they answer the next. So it is measured.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fedtune.recipe import Model
from fedtune.training.attention import attention_of
from fedtune.training.base import choose_dtype, kind_of

if TYPE_CHECKING:
    from datasets import Dataset

_FIRST, _OTHER, _SECOND = (3, 9, 4, 7, 5), (8, 4, 6, 3, 9), (5, 3, 8, 6, 4, 7, 9)
_VOCABULARY = 16
_MOST = 10**8  # numbers of a model that is drawn for a check
_SLACK = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.1}  # of the logits' spread
_NOT_APART = (
    "train.{}: this model does not keep rows apart that stand one after another: what it says of "
    "one changes with the one before ({:.1%} of its logits' spread); leave it out"
)


def packing_refusals(train: Mapping[str, object]) -> Iterator[str]:
    """What of the keys on packing would train on something else than rows, a line each."""
    if not train.get("packing"):
        return
    strategy = train.get("packing_strategy", "bfd")
    if strategy == "wrapped":
        yield (
            "train.packing_strategy: wrapped cuts rows anywhere and tells no model where one "
            "begins, so that each is read with the end of another; write bfd"
        )
    elif strategy != "bfd":
        yield (
            f"train.packing_strategy: {strategy!r} is not taken: pieces of a split row are taught "
            "without what they answer; write bfd, which cuts at max_length"
        )
    if "max_length" in train and train["max_length"] is None:
        yield "train.packing: needs a max_length, which the packed sequences have; write 1024"
    if train.get("truncation_mode", "keep_start") != "keep_start":
        yield "train.packing: TRL packs the beginnings of rows; write truncation_mode: keep_start"


def flattened_by(train: Mapping[str, object]) -> str | None:
    """The key by which rows of a batch stand in one sequence; None where each has its own."""
    return next((key for key in ("packing", "padding_free") if train.get(key)), None)


def packed(rows: Dataset, most: int) -> Dataset:
    """Prepared rows as TRL's best-fit decreasing packs them.

    Args:
        rows: Columns ``input_ids`` and ``labels``, none longer than ``most``.
        most: Tokens of a packed sequence.

    Returns:
        Both columns of packed sequences, and ``seq_lengths``, the lengths of the rows in each.
    """
    from trl import pack_dataset

    return pack_dataset(rows, most, "bfd")


def unpacked(rows: Dataset) -> Iterator[tuple[list[int], list[int]]]:
    """Ids and labels of each row; of packed sequences, of the rows that are in them."""
    for row in rows:
        start = 0
        for length in row.get("seq_lengths") or [len(row["input_ids"])]:
            part = slice(start, start + length)
            yield row["input_ids"][part], row["labels"][part]
            start += length


def check_apart(model: Any, train: Mapping[str, object]) -> None:  # noqa: ANN401
    """Refuse to lay rows one after another in a model that does not keep them apart.

    Args:
        model: A causal LM, whose weights are here.
        train: TRL's keys.

    Raises:
        ValueError: Naming the key.
    """
    for refusal in packing_refusals(train):
        raise ValueError(refusal)
    key = flattened_by(train)
    if key is None:
        return
    gap = _gap(model)
    dtype = next(model.parameters()).dtype
    if not gap <= _SLACK.get(dtype, 0.1):
        raise ValueError(_NOT_APART.format(key, gap))


def check_architecture(section: Model, config: Any, train: Mapping[str, object]) -> None:  # noqa: ANN401
    """The same of the architecture alone: two layers of it are drawn, for a few tokens.

    Where these are too large, or cannot be drawn, the run will tell when it has loaded the model.

    Raises:
        ValueError: Naming the key.
    """
    if flattened_by(train) is None:
        return
    kind, cpu = kind_of("CAUSAL_LM"), torch.device("cpu")
    try:
        attention = attention_of(
            section, config, kind, device=cpu, dtype=choose_dtype("float32", cpu)
        )
        small = _small(config)
        with torch.device("meta"):
            drawn = kind.from_config(small, **attention)
        if sum(each.numel() for each in drawn.parameters()) > _MOST:
            return
        with torch.random.fork_rng():
            torch.manual_seed(0)
            drawn = kind.from_config(small, **attention).float()
        _gap(drawn)
    except Exception:
        return
    check_apart(drawn, train)


def _small(config: Any) -> Any:  # noqa: ANN401
    small = copy.deepcopy(config)
    text = small.get_text_config()
    kinds = getattr(text, "layer_types", None)
    layers = min(2, text.num_hidden_layers)
    if kinds:  # as many as show each kind
        layers = max(layers, *(1 + kinds.index(each) for each in set(kinds)))
        with suppress(AttributeError):  # of some they follow from the number
            text.layer_types = kinds[:layers]
    text.num_hidden_layers = layers
    text.vocab_size = _VOCABULARY
    for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(text, key, 0)
    return small


@torch.inference_mode()
def _gap(model: Any) -> float:  # noqa: ANN401
    """How far logits of two rows in one sequence are from those of each alone, in their spread."""
    training = model.training
    model.eval()
    alone = torch.cat([_logits(model, [row]) for row in (_FIRST, _SECOND)])
    together = _logits(model, [_FIRST, _SECOND])
    after_another = _logits(model, [_OTHER, _SECOND])[len(_OTHER) :]
    model.train(training)
    found = (together - alone).abs().max() / alone.std()
    moved = (after_another - together[len(_FIRST) :]).abs().max() / alone.std()
    return float(torch.maximum(found, moved))


def _logits(model: Any, rows: list[tuple[int, ...]]) -> Tensor:  # noqa: ANN401
    """Of rows in one sequence, as TRL's collator hands it over; shape (tokens, vocabulary)."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    lengths = [len(row) for row in rows]
    ids = [token for row in rows for token in row]
    device = next(model.parameters()).device
    if len(rows) == 1:
        whole = torch.tensor([ids])
        batch: dict[str, Any] = {"input_ids": whole, "attention_mask": torch.ones_like(whole)}
    else:
        collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
        batch = collate([{"input_ids": ids, "labels": ids, "seq_lengths": lengths}])
        del batch["labels"]
    moved = {k: each.to(device) if isinstance(each, Tensor) else each for k, each in batch.items()}
    logits: Tensor = model(**moved, use_cache=False).logits[0]
    return logits.float()
