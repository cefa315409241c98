"""Bulyan: rows picked by Krum one after the other, then the mean around their median."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from aggregators.engine.gram import Gram
from aggregators.engine.rule import Kept, Mixture, Rule
from aggregators.engine.ties import first_least
from aggregators.rules.columns.windows import around_median

if TYPE_CHECKING:
    from torch import Tensor


def bulyan_selection(gram: Gram, *, f: int) -> Mixture:
    """Pick theta = n-2f rows: Krum's choice among the rows that are left, each time anew.

    With n' rows left, Krum sums the squared distances to the n'-f-2 nearest others of them. Near
    the end that count falls under one when f <= 1; then it is one, the nearest other, or none for
    a row that is alone. With one neighbour, two rows that are each other's nearest tie, and mixed
    rows tie often. Scores equal to 1e-9 of themselves: the lowest index.

    Args:
        gram: The clients' Gram.
        f: Clients that may be Byzantine, a count. Needs n >= 4f + 3.

    Returns:
        A (theta, n) matrix with a single one in each row, in the order of the picks. Facts:
        ``selected``, the picks, and ``scores``, each pick's when it was picked.

    Raises:
        ValueError: If n < 4f + 3.

    Source:
        El Mhamdi et al. 2018, first step of Bulyan, https://arxiv.org/abs/1802.07927
    """
    n = gram.num_clients
    SELECTION.check_clients(n, f)
    distances = gram.squared_distances().fill_diagonal_(torch.inf)
    left, selected, scored = list(range(n)), [], []
    for _ in range(n - 2 * f):
        neighbours = min(max(len(left) - f - 2, 1), len(left) - 1)
        among = distances[left][:, left].sort(dim=1).values[:, :neighbours]
        scores = among.sum(dim=1)
        best = first_least(scores)
        scored.append(float(scores[best]))
        selected.append(left.pop(best))
    matrix = torch.zeros(len(selected), n, dtype=torch.float64)
    matrix[range(len(selected)), selected] = 1
    return Mixture(matrix, {"selected": [float(i) for i in selected], "scores": scored})


def bulyan(updates: Tensor, *, f: int) -> Kept:
    """Average, of each coordinate of the picked rows, the theta-2f values nearest their median.

    The median of an even count is the mean of the two middles. Two values equally near, to
    1e-9 of their distance from it: the lower one.

    Args:
        updates: The theta = n-2f rows that ``bulyan_selection`` picked, shape (theta, d).
        f: Clients that may be Byzantine among the n, a count. Needs n >= 4f + 3.

    Returns:
        The means, float64, and the least and the greatest value that had a say.

    Raises:
        ValueError: If n < 4f + 3.

    Source:
        El Mhamdi et al. 2018, https://arxiv.org/abs/1802.07927
    """
    theta = len(updates)
    RULE.check_clients(theta + 2 * f, f)
    return around_median(updates, count=theta - 2 * f)


def _min_clients(f: int) -> int:
    return 4 * f + 3


SELECTION = Rule(
    name="bulyan_selection",
    summary="n-2f updates, each Krum's choice among those that are left",
    source="El Mhamdi et al. 2018, https://arxiv.org/abs/1802.07927",
    condition="n >= 4f + 3",
    min_clients=_min_clients,
    kind="mixing",
    function=bulyan_selection,
    cost="n² d for the Gram, then n³ log n on it",
    reading="Krum's n' - f - 2 neighbours among the n' rows left, at least one.",
)

RULE = Rule(
    name="bulyan",
    summary="The mean around the median of n-2f updates picked by Krum one by one",
    source="El Mhamdi et al. 2018, https://arxiv.org/abs/1802.07927",
    condition="n >= 4f + 3",
    min_clients=_min_clients,
    kind="columns",
    function=bulyan,
    cost="n² d for the Gram, then n d log² n minima and maxima and 2f d moves of the window",
    kappa="none known; each coordinate stays within the spread of honest ones, El Mhamdi et al.",
    reading="Krum runs anew on the rows left for each pick, with n' - f - 2 of n' as neighbours, "
    "at least one; peers score all rows once. Then the n-4f values nearest the median.",
    first=SELECTION,
)
