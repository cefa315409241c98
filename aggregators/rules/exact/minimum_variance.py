"""Minimum variance: the mean of the n - f updates with the least squared distances in all."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from aggregators.engine.gram import Gram
from aggregators.engine.rows import one_thread
from aggregators.engine.rule import Combination, Option, Rule
from aggregators.engine.ties import TIE
from aggregators.rules.exact.removal import best_removal
from aggregators.rules.exact.subset import Search, average_of

if TYPE_CHECKING:
    from torch import Tensor

# With f up to n/3 and no more subsets than this, rows made to be hard (of one norm, or attackers
# that are sums of honest rows scaled to their distance) were searched within the default max_nodes:
# n=36, f=12 in 90,000 nodes and 1 s on one core. n=60, f=15 was not, and n=31, f=15 not always.
_MOST_SUBSETS = 10**10


def minimum_variance(gram: Gram, *, f: int, max_nodes: int = 200_000) -> Combination:
    """Average the (n-f)-subset with the least sum of squared distances between its rows.

    That sum is (n-f)² times the subset's variance, so this is the least trimmed squares estimate
    of the mean. Exact: a good subset is found by moving from a mean to the n-f rows nearest to
    it, rows too far from all others to be in a better one are removed, and of the rest the f to
    remove are searched by branch and bound.

    Subsets with sums equal to 1e-9 tie; the lexicographically first by client index is
    taken.

    Args:
        gram: The clients' Gram.
        f: Clients that may be Byzantine, a count. Needs n >= 2f + 1.
        max_nodes: Most branches of the search.

    Returns:
        Weight 1/(n-f) on each selected client. Facts: ``selected`` (by index), ``variance`` (mean
        squared distance of the selected to their mean), ``search_nodes``.

    Raises:
        ValueError: If n < 2f + 1, or the subsets are too many, or the search passes
            ``max_nodes``.

    Source:
        Rousseeuw 1984 (least trimmed squares), https://doi.org/10.1080/01621459.1984.10477105
        Farhadkhani et al. 2022 (subset averages under attack), https://arxiv.org/abs/2205.12173
    """
    n = gram.num_clients
    RULE.check_clients(n, f, {"max_nodes": max_nodes})
    search = Search("minimum_variance", max_nodes, n, f)
    distances = gram.squared_distances()
    largest = float(distances.max())
    relative = distances / largest if largest > 0 else distances
    with one_thread():
        guess, ceiling = _good_subset(relative, n - f)
        left = _within_reach(relative, n - f, ceiling)
        removed = [left.index(i) for i in left if not guess[i]]
        removed = best_removal(relative[left][:, left], removed, search)
    selected = [i for place, i in enumerate(left) if place not in set(removed)]
    total = float(relative[selected][:, selected].sum()) * largest
    variance = total / 2 / (n - f) ** 2
    return average_of(gram, selected, {"variance": variance, "search_nodes": float(search.nodes)})


def _good_subset(distances: Tensor, count: int) -> tuple[list[bool], float]:
    """Find a subset that is at least nearly the best, and its sum over pairs.

    Starts at each row with the rows nearest to it, and moves to the rows nearest to the mean
    while that lowers the sum, which it never raises.
    """
    n = len(distances)
    keys, best, chosen = distances.clone().fill_diagonal_(-1), torch.inf, torch.zeros(n)
    for _ in range(n):
        nearest = keys.sort(dim=1, stable=True).indices[:, :count]
        member = torch.zeros(n, n, dtype=torch.float64).scatter_(1, nearest, 1.0)
        keys = member @ distances  # to the subset's mean, times its size, up to a constant
        sums = (keys * member).sum(dim=1) / 2
        start = int(sums.sort(stable=True).indices[0])
        if not float(sums[start]) < best:
            break
        best, chosen = float(sums[start]), member[start]
    return [bool(inside) for inside in chosen], best


def _within_reach(distances: Tensor, count: int, ceiling: float) -> list[int]:
    """The rows that a subset of this size can hold with a sum over pairs up to the ceiling.

    A subset with row i has a sum of at least i's squared distances to its count-1 nearest. What
    is left has distances no larger than a few times the ceiling, so that a payload of 1e30 takes
    no digits from the sums that follow.
    """
    left = torch.arange(len(distances))
    while True:
        nearest = distances[left][:, left].sort(dim=1).values[:, :count]
        kept = left[nearest.sum(dim=1) <= ceiling * (1 + TIE)]
        if len(kept) == len(left):
            return [int(i) for i in left]
        left = kept


def _limit(n: int, f: int, max_nodes: int = 200_000) -> str | None:
    subsets = math.comb(n, f)
    if subsets <= _MOST_SUBSETS:
        return None
    return (
        f"needs at most {_MOST_SUBSETS:.0e} subsets of n - f clients: got "
        f"C({n}, {f}) = {subsets:.1e}; lower f, or take mda, which searches differently"
    )


RULE = Rule(
    name="minimum_variance",
    summary="The mean of the n - f updates of least variance",
    source="Farhadkhani et al. 2022, https://arxiv.org/abs/2205.12173",
    condition="n >= 2f + 1",
    min_clients=lambda f: 2 * f + 1,
    kind="gram",
    function=minimum_variance,
    cost=(
        "n² d for the Gram; the search is exponential in f at worst. Beyond small n, f attackers "
        "can make it long on purpose, so more than 1e10 subsets are refused before a run, and more "
        "than max_nodes branches stop it: that is possible where f is near n/2"
    ),
    kappa=(
        "4f / (n-2f): the honest mean and this one are each within sqrt(f / (n-2f)) standard "
        "deviations of the mean of the n-2f or more rows that they share"
    ),
    bound=lambda n, f: 4 * f / (n - 2 * f),
    reading="exact; of subsets of one variance the lexicographically first by client index",
    options={
        "max_nodes": Option("Most branches of the exact search", int, 200_000, 1, 1_000_000_000)
    },
    limit=_limit,
)
