"""Whether two models are one: their logits on a few rows, held against each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ROWS, _COLUMNS = 2, 16  # rows of so many tokens
# Of the largest logit. To fold an adapter in rounds each weight once, at 2^-24 of it: 27
# architectures come back to within 1e-6, and depth multiplies that. Where less than this is wrong,
# the adapter itself does no more.
APART = 1e-4


def some_rows(model: Any) -> Tensor:  # noqa: ANN401
    """A few rows of token ids: drawn, and those whose embedding an adapter has moved most.

    An embedding's LoRA moves the tokens of its training rows alone: of a large vocabulary, draws
    may hit none.

    Returns:
        Ids on the CPU, shape (rows, 16).
    """
    embedding = model.get_input_embeddings()
    size = len(embedding.weight)
    rows = torch.randint(size, (_ROWS, _COLUMNS), generator=torch.Generator().manual_seed(0))
    for moved in getattr(embedding, "lora_embedding_A", {}).values():
        most = moved.detach().norm(dim=0).topk(min(_COLUMNS, size)).indices.cpu()
        rows = torch.cat([rows, most[torch.arange(_COLUMNS) % len(most)][None]])
    return rows


def some_logits(model: Any, rows: Tensor) -> Tensor:  # noqa: ANN401
    """What a model makes of rows of token ids, without dropout: float32 on the CPU."""
    training, device = model.training, next(model.parameters()).device
    model.eval()
    with torch.no_grad():
        mask = torch.ones_like(rows).to(device)
        logits: Tensor = model(input_ids=rows.to(device), attention_mask=mask).logits
    model.train(training)
    return logits.float().cpu()


def check_logits(found: Tensor, expected: Tensor, what: str, *, apart: float = APART) -> None:
    """Hold what a model makes of a few rows against what base and adapter make of them.

    Logits that are no finite number with base and adapter say nothing, and are passed over.

    Args:
        found: Of `some_logits`.
        expected: Of base and adapter.
        what: Whose logits were found, for the message.
        apart: By how much of the largest logit they may be off.

    Raises:
        ValueError: If it is another model.
    """
    told = expected.isfinite()
    if not told.any():  # a ruined model; its tensors have been compared
        return
    most = float(expected[told].abs().max())
    alike = found.shape == expected.shape
    off = float((found - expected)[told].abs().max()) if alike else float("inf")
    if not off <= apart * most:
        raise ValueError(
            f"{what} gives other logits than base and adapter: {off:.3g} away, where the largest "
            f"is {most:.3g}; it was not kept. Load base and adapter with PEFT instead"
        )
