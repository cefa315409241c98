"""How well a model predicts text: bits per byte, and nats per token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

__all__ = ["Fit", "completion_fit", "text_fit"]


@dataclass(frozen=True)
class Fit:
    """The loss summed over a set of texts, and over how much.

    Attributes:
        nats: Negative log-likelihood, summed.
        tokens: Predicted tokens.
        utf8_bytes: Bytes of the predicted text.
    """

    nats: float
    tokens: int
    utf8_bytes: int

    @property
    def nats_per_token(self) -> float:
        """The usual loss; depends on the tokenizer."""
        return self.nats / self.tokens

    @property
    def bits_per_byte(self) -> float:
        """The loss that any two models share, whatever their tokenizers."""
        return self.nats / math.log(2) / self.utf8_bytes


def text_fit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    *,
    batch_size: int = 32,
) -> Fit:
    """Measure a model on whole texts, each read alone behind BOS and closed by EOS.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer, which puts BOS in front.
        texts: Texts; a text beyond the model's positions is an error of the model.
        batch_size: Texts per forward pass.

    Returns:
        The fit; EOS counts as a token and as no byte.
    """
    rows = [(ids[:1], [*ids[1:], tokenizer.eos_token_id]) for ids in _ids(tokenizer, texts)]
    return _fit(model, rows, sum(len(text.encode()) for text in texts), batch_size)


def completion_fit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[dict[str, str]],
    *,
    batch_size: int = 32,
) -> Fit:
    """Measure a model on completions, each behind its prompt, closed by EOS; see ``text_fit``."""
    prompts = _ids(tokenizer, [row["prompt"] for row in rows])
    wholes = _ids(tokenizer, [row["prompt"] + row["completion"] for row in rows])
    pairs = [
        (prompt, [*whole[len(prompt) :], tokenizer.eos_token_id])
        for prompt, whole in zip(prompts, wholes, strict=True)
    ]
    return _fit(model, pairs, sum(len(row["completion"].encode()) for row in rows), batch_size)


def _ids(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(list(texts), return_attention_mask=False)["input_ids"]
    return ids


def _fit(
    model: PreTrainedModel,
    pairs: list[tuple[list[int], list[int]]],
    utf8_bytes: int,
    batch_size: int,
) -> Fit:
    if not pairs:
        raise ValueError("a fit needs at least one text: got none")
    pairs = sorted(pairs, key=lambda pair: len(pair[0]) + len(pair[1]))  # little padding
    nats, tokens = 0.0, 0
    was_training = model.training
    model.eval()
    for start in range(0, len(pairs), batch_size):
        batch = pairs[start : start + batch_size]
        nats += _nats(model, batch)
        tokens += sum(len(answer) for _, answer in batch)
    model.train(was_training)
    return Fit(nats, tokens, utf8_bytes)


@torch.no_grad()
def _nats(model: PreTrainedModel, batch: list[tuple[list[int], list[int]]]) -> float:
    length = max(len(given) + len(answer) for given, answer in batch)
    ids = torch.zeros(len(batch), length, dtype=torch.long)
    labels = torch.full((len(batch), length), -100)
    for row, (given, answer) in enumerate(batch):
        ids[row, : len(given) + len(answer)] = torch.tensor(given + answer)
        labels[row, len(given) : len(given) + len(answer)] = torch.tensor(answer)
    # Padding stands behind the text, where a causal model cannot see it.
    logits = model(input_ids=ids.to(model.device)).logits.float().cpu()
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    return float(loss)
