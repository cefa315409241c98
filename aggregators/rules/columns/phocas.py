"""Phocas: the mean around the trimmed mean, coordinate by coordinate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from aggregators.engine.rule import Kept, Rule
from aggregators.engine.sorting import average_into, on_sorted
from aggregators.rules.columns.windows import average_nearest, loose_ranks

if TYPE_CHECKING:
    from torch import Tensor


def phocas(updates: Tensor, *, f: int) -> Kept:
    """Average the n-f values of each coordinate that are nearest its trimmed mean.

    The trimmed mean drops f values on either side. Two values equally near, to
    1e-9 of their distance from it: the lower one.

    Args:
        updates: One client update per row, shape (n, d), floating point.
        f: Clients that may be Byzantine, a count. Needs n >= 2f + 1. The paper's b, for both.

    Returns:
        The means, float64, and the least and the greatest value that had a say.

    Raises:
        ValueError: If n < 2f + 1.

    Source:
        Xie et al. 2018 ("Phocas"), https://arxiv.org/abs/1805.09682
    """
    n = len(updates)
    RULE.check_clients(n, f)

    def finish(rows: Sequence[Tensor], kept: Kept) -> None:
        trimmed = torch.empty_like(kept.values)
        average_into(trimmed, rows[f : n - f], rows[f], rows[n - f - 1])
        average_nearest(rows, trimmed, kept, count=n - f)

    return on_sorted(updates, range(n), finish, loose=loose_ranks(n, n - f))


RULE = Rule(
    name="phocas",
    summary="The mean of the n-f values nearest the trimmed mean, coordinate by coordinate",
    source="Xie et al. 2018, https://arxiv.org/abs/1805.09682",
    condition="n >= 2f + 1",
    min_clients=lambda f: 2 * f + 1,
    kind="columns",
    function=phocas,
    cost="n d log² n minima and maxima and f d moves of the window; n d log n from 49 clients on",
    reading="One f both for trimming and for the n-f values kept; of two values equally near, "
    "the lower one.",
)
