"""Held-out figures of the model as it stands: loss, perplexity, token accuracy, completions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy

IGNORED = -100


@dataclass(frozen=True)
class Figures:
    """What the model makes of held-out rows.

    Attributes:
        loss: Nats per labelled token, over all tokens of all rows alike.
        token_accuracy: Share of labelled tokens that the model ranks first.
        num_tokens: Labelled tokens.
    """

    loss: float
    token_accuracy: float
    num_tokens: int

    @property
    def perplexity(self) -> float:
        """exp(loss), or infinity beyond the floats."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    def as_dict(self) -> dict[str, float]:
        """The figures by name, as metrics.jsonl holds them."""
        return {
            "loss": self.loss,
            "perplexity": self.perplexity,
            "token_accuracy": self.token_accuracy,
            "num_tokens": self.num_tokens,
        }


@torch.inference_mode()
def measure(rows: Dataset, model: Any, *, pad_token_id: int, batch_size: int) -> Figures:  # noqa: ANN401
    """Measure the model on prepared rows; batches go by length, sums are float64.

    Args:
        rows: Columns ``input_ids`` and ``labels``, at least one row.
        model: A causal LM.
        pad_token_id: Fills the short rows of a batch; it is masked and unlabelled.
        batch_size: Rows of a batch.
    """
    examples = list(zip(rows["input_ids"], rows["labels"], strict=True))
    examples.sort(key=lambda example: len(example[0]))
    training, device = model.training, next(model.parameters()).device
    model.eval()
    nats, right, tokens = 0.0, 0, 0
    for start in range(0, len(examples), batch_size):
        batch = examples[start : start + batch_size]
        ids = _pad([example[0] for example in batch], pad_token_id).to(device)
        labels = _pad([example[1] for example in batch], IGNORED)[:, 1:].to(device)
        mask = _pad([[1] * len(example[0]) for example in batch], 0).to(device)
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
        kept = labels != IGNORED
        nats += cross_entropy(logits[kept], labels[kept], reduction="none").double().sum().item()
        right += int((logits[kept].argmax(-1) == labels[kept]).sum())
        tokens += int(kept.sum())
    model.train(training)
    return Figures(nats / max(tokens, 1), right / max(tokens, 1), tokens)


@torch.inference_mode()
def complete(
    prompts: Sequence[list[int]],
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    *,
    max_new_tokens: int,
) -> list[str]:
    """Complete prompts greedily, one at a time."""
    training, device = model.training, next(model.parameters()).device
    model.eval()
    texts = []
    for prompt in prompts:
        ids = torch.tensor([prompt], device=device)
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            use_cache=True,
            pad_token_id=tokenizer.pad_token_id,
        )
        texts.append(tokenizer.decode(out[0, len(prompt) :], skip_special_tokens=True).strip())
    model.train(training)
    return texts


def _pad(rows: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows])
