"""Coordinate-wise trimmed mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aggregators.engine.rule import Kept, Rule
from aggregators.engine.sorting import average_into, on_sorted

if TYPE_CHECKING:
    from torch import Tensor


def trimmed_mean(updates: Tensor, *, f: int) -> Kept:
    """Drop the f largest and f smallest values of each coordinate, average the rest.

    The kept values are summed, in float64: subtracting the extremes from the full sum, as some
    peers do, is off by 1.1 when one payload is 1e8.

    Args:
        updates: One client update per row, shape (n, d), floating point.
        f: Clients that may be Byzantine, a count. Needs n >= 2f + 1. The paper's beta is f/n.

    Returns:
        The trimmed means, float64, and the least and the greatest value that had a say.

    Raises:
        ValueError: If n < 2f + 1.

    Source:
        Yin et al. 2018, Definition 2, https://arxiv.org/abs/1803.01498
    """
    n = len(updates)
    RULE.check_clients(n, f)
    return on_sorted(updates, range(f, n - f), _average, loose=range(f + 1, n - f - 1))


def _average(rows: Sequence[Tensor], kept: Kept) -> None:
    kept.low.copy_(rows[0])
    kept.high.copy_(rows[-1])
    average_into(kept.values, rows, kept.low, kept.high)


def _bound(n: int, f: int) -> float:
    return 6 * f / (n - 2 * f) * (1 + f / (n - 2 * f))


RULE = Rule(
    name="trimmed_mean",
    summary="Drop the f largest and f smallest values per coordinate, average the rest",
    source="Yin et al. 2018, Definition 2, https://arxiv.org/abs/1803.01498",
    condition="n >= 2f + 1",
    min_clients=lambda f: 2 * f + 1,
    kind="columns",
    function=trimmed_mean,
    cost="n d log² n minima and maxima; n d log n from 49 clients on",
    kappa="6 f / (n - 2f) (1 + f / (n - 2f)), Allouah et al. 2023",
    bound=_bound,
    reading="f on either side, a count. Peers also take a share of n on either side.",
)
