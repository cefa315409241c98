"""Coordinate-wise median."""

import torch
from torch import Tensor

from aggregators.columns import sorted_columns
from aggregators.rule import Kept, Rule


def median(updates: Tensor, *, f: int) -> Kept:
    """Take the median of each coordinate; of an even count the mean of the two middles.

    (``torch.median`` takes the lower of the two.)

    Args:
        updates: One client update per row, shape (n, d), floating point.
        f: Clients that may be Byzantine, a count. Needs n >= 2f + 1; not used otherwise.

    Returns:
        The medians, float64, and the least and the greatest value that had a say.

    Raises:
        ValueError: If n < 2f + 1.

    Source:
        Yin et al. 2018, Definition 1, https://arxiv.org/abs/1803.01498
    """
    n = len(updates)
    RULE.check_clients(n, f)
    ordered = sorted_columns(updates)
    low, high = ordered[:, (n - 1) // 2], ordered[:, n // 2]
    values = (low.to(torch.float64) + high.to(torch.float64)) / 2
    return Kept(values, low, high)


RULE = Rule(
    name="median",
    summary="The median of each coordinate; of an even count the mean of the two middles",
    source="Yin et al. 2018, Definition 1, https://arxiv.org/abs/1803.01498",
    condition="n >= 2f + 1",
    min_clients=lambda f: 2 * f + 1,
    kind="columns",
    function=median,
)
