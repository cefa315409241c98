"""What a model says: greedy completions, one prompt at a time or in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

IGNORED = -100  # the label of a token that takes no part in the loss


def complete(
    prompts: Sequence[list[int]],
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    *,
    max_new_tokens: int,
    batch_size: int = 1,
) -> list[str]:
    """Complete prompts greedily, as text; arguments are those of `complete_in_batches`."""
    found = complete_in_batches(
        prompts, model, tokenizer, max_new_tokens=max_new_tokens, batch_size=batch_size
    )
    return [text.strip() for text in tokenizer.batch_decode(found, skip_special_tokens=True)]


@torch.inference_mode()
def complete_in_batches(
    prompts: Sequence[list[int]],
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    *,
    max_new_tokens: int,
    batch_size: int,
) -> list[list[int]]:
    """Complete prompts greedily, those of like length together, padded on the left.

    Args:
        prompts: Token lists, at least one, none empty.
        model: A causal LM.
        tokenizer: Its tokenizer, with a pad token.
        max_new_tokens: Tokens of a completion, at most.
        batch_size: Prompts of a batch.

    Returns:
        The new tokens of each prompt, in the order of the prompts, with what fills them up.
    """
    training, device = model.training, next(model.parameters()).device
    model.eval()
    found: list[list[int]] = [[] for _ in prompts]
    for places in _by_length(prompts, batch_size):
        batch = [prompts[place] for place in places]
        width = max(map(len, batch))
        ids = [[tokenizer.pad_token_id] * (width - len(prompt)) + prompt for prompt in batch]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch]
        out = model.generate(
            input_ids=torch.tensor(ids, device=device),
            attention_mask=torch.tensor(mask, device=device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            pad_token_id=tokenizer.pad_token_id,
        )
        for place, tokens in zip(places, out[:, width:].tolist(), strict=True):
            found[place] = tokens
    model.train(training)
    return found


def pad(rows: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
    """Rows of one width, filled up on the right."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows])


def _by_length(prompts: Sequence[list[int]], batch_size: int) -> Iterator[list[int]]:
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
