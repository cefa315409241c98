"""Completion swap: answers that belong to other prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch

from attacks.attack import Attack
from attacks.data.choice import check_columns, choose, rate_option

T = TypeVar("T")


def completion_swap(
    completions: Sequence[T], *, rate: float, generator: torch.Generator
) -> list[T]:
    """Give a fraction of the rows the completion of another row.

    ``round(rate * n)`` rows (Python's rounding, at least 2 when rate > 0) are drawn, put in
    random order, and each takes the completion of the next: a single random cycle, so none
    keeps its own and the collection as a whole stays the same, lengths and words included. Two
    rows with equal completions may still end up with what they had, in value.

    Needs no knowledge of others. The attacker trains honestly on it, so its update looks like that
    of a client with unusual data: distance rules hardly see it among non-IID clients, and it hurts
    in proportion to the share of attackers whatever the rule.

    Args:
        completions: One completion per row; only its place is used.
        rate: Fraction of the rows to change, in [0, 1].
        generator: Source of the choice, on the CPU.

    Returns:
        A new list of the same completions.

    Raises:
        ValueError: If ``rate`` is outside [0, 1], or above 0 with fewer than two rows.

    Source:
        Label flipping of Tolpegin et al. 2020, https://arxiv.org/abs/2007.08432, with a row's
        completion in the place of its label; theirs maps one class to another, and text has none.
    """
    chosen = choose("completion_swap", len(completions), rate, generator=generator, least=2)
    swapped = list(completions)
    for to, source in zip(chosen, chosen[1:] + chosen[:1], strict=True):
        swapped[to] = completions[source]
    return swapped


def swap_completions(
    rows: Sequence[Mapping[str, object]], *, rate: float, generator: torch.Generator
) -> list[dict[str, object]]:
    """Apply ``completion_swap`` to rows; each completion a str or a whole list of messages.

    Args:
        rows: Prompt-completion rows; every other key stays with its row.
        rate: Fraction of the rows to change, in [0, 1].
        generator: Source of the choice, on the CPU.

    Returns:
        New rows; the given ones are not modified.

    Raises:
        ValueError: If a row has no completion, or some are text and some are messages.
    """
    check_columns(
        "completion_swap",
        rows,
        "completion",
        why="give prompt and completion, as running text has no separate answer to swap",
    )
    swapped = completion_swap([row["completion"] for row in rows], rate=rate, generator=generator)
    return [{**row, "completion": new} for row, new in zip(rows, swapped, strict=True)]


ATTACK = Attack(
    name="completion_swap",
    summary="train on answers that belong to other prompts",
    source="Tolpegin et al. 2020, https://arxiv.org/abs/2007.08432",
    level="data",
    goal="harm",
    options={"rate": rate_option(1.0)},
    takes=("generator",),
    function=swap_completions,
)
