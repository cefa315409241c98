"""Coordinate-wise trimmed mean."""

import torch
from torch import Tensor

from aggregators.columns import sorted_columns
from aggregators.rule import Kept, Rule


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
    kept = sorted_columns(updates)[:, f : n - f]
    values = kept.to(torch.float64).mean(dim=1)
    return Kept(values, kept[:, 0], kept[:, -1])


RULE = Rule(
    name="trimmed_mean",
    summary="Drop the f largest and f smallest values per coordinate, average the rest",
    source="Yin et al. 2018, Definition 2, https://arxiv.org/abs/1803.01498",
    condition="n >= 2f + 1",
    min_clients=lambda f: 2 * f + 1,
    kind="columns",
    function=trimmed_mean,
)
