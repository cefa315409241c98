"""SMEA: the mean of the n - f updates with the least top eigenvalue of their covariance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations, islice
from typing import TYPE_CHECKING

import torch

from aggregators.engine.gram import Gram
from aggregators.engine.rows import one_thread
from aggregators.engine.rule import Combination, Rule
from aggregators.engine.ties import first_least
from aggregators.rules.exact.subset import average_of

if TYPE_CHECKING:
    from torch import Tensor

_MOST_SUBSETS = 200_000
_MOST_WORK = 10**11  # subsets times (n-f)³; about a minute on one core
_BATCH_VALUES = 1 << 20  # 8 MB of float64


def smea(gram: Gram, *, f: int) -> Combination:
    """Average the (n-f)-subset with the least top eigenvalue of its covariance.

    Exact: every subset is looked at, and its eigenvalues are computed to the last digits; peers
    take one power iteration from a random start, and often another subset. The covariance of
    n - f rows has the same top eigenvalue as their centred Gram matrix divided by n - f, so the
    cost does not grow with d. Eigenvalues that are equal to 1e-9 tie; the lexicographically
    first subset by client index is taken.

    Args:
        gram: The clients' Gram.
        f: Clients that may be Byzantine, a count. Needs n >= 2f + 1.

    Returns:
        Weight 1/(n-f) on each selected client. Facts: ``selected`` (by index), ``eigenvalue`` (of
        the covariance, divisor n-f), ``subsets``.

    Raises:
        ValueError: If n < 2f + 1, or there are more than 200,000 subsets, or of so many clients
            each that their eigenvalues would take more than about a minute.

    Source:
        Allouah et al. 2023 (smallest maximum eigenvalue averaging), https://arxiv.org/abs/2302.04787
    """
    n = gram.num_clients
    RULE.check_clients(n, f)
    distances = gram.squared_distances()
    largest = float(distances.max())
    relative = distances / largest if largest > 0 else distances
    with one_thread():
        tops = torch.cat([_top_eigenvalues(relative, batch) for batch in _batches(n, n - f)])
    first = first_least(tops)
    selected = next(islice(combinations(range(n), n - f), first, None))
    facts = {"eigenvalue": float(tops[first]) * largest, "subsets": float(len(tops))}
    return average_of(gram, selected, {**facts})


def _batches(n: int, count: int) -> Iterator[Tensor]:
    """Visit the subsets of so many of n clients in lexicographic order, each batch (b, count)."""
    subsets = combinations(range(n), count)
    while batch := list(islice(subsets, max(1, _BATCH_VALUES // count**2))):
        yield torch.tensor(batch)


def _top_eigenvalues(distances: Tensor, subsets: Tensor) -> Tensor:
    """Compute the top eigenvalue of each subset's covariance.

    Args:
        distances: Squared distances between the clients, shape (n, n).
        subsets: Client indices, shape (b, k).

    Returns:
        Eigenvalues of (1/k) sum (x - mean)(x - mean)ᵀ, shape (b,).
    """
    within = distances[subsets[:, :, None], subsets[:, None, :]]
    means = within.mean(dim=2)
    around = means - means.mean(dim=1, keepdim=True) / 2
    centred = (around[:, :, None] + around[:, None, :] - within) / 2
    values: Tensor = torch.linalg.eigvalsh(centred)
    return values[:, -1] / subsets.shape[1]


def _limit(n: int, f: int) -> str | None:
    subsets = math.comb(n, f)
    if subsets <= _MOST_SUBSETS and subsets * (n - f) ** 3 <= _MOST_WORK:
        return None
    return (
        f"needs at most {_MOST_SUBSETS} subsets of n - f clients, and subsets * (n - f)³ <= "
        f"{_MOST_WORK:.0e}: got C({n}, {f}) = {subsets} subsets of {n - f}; lower f, or take "
        "caf, which also goes by the top eigenvalue"
    )


RULE = Rule(
    name="smea",
    summary="The mean of the n - f updates with the least top eigenvalue of their covariance",
    source="Allouah et al. 2023, https://arxiv.org/abs/2302.04787",
    condition="n >= 2f + 1",
    min_clients=lambda f: 2 * f + 1,
    kind="gram",
    function=smea,
    cost=(
        "n² d for the Gram, and C(n, f) eigenvalue problems of (n-f) x (n-f), refused beyond "
        "200,000: on one core 0.1 s for n=20, f=4, 6 s for n=24, f=6, and 19 s for n=31, f=5"
    ),
    kappa="4f (n-f) / (n-2f)², already times the top eigenvalue of the honest covariance alone",
    bound=lambda n, f: 4 * f * (n - f) / (n - 2 * f) ** 2,
    reading="the exact top eigenvalue; of equal ones the lexicographically first subset",
    limit=_limit,
)
