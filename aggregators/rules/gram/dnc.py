"""Divide and conquer: drop the updates that stand out along the main direction of spread."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

import torch

from aggregators.engine.gram import Gram
from aggregators.engine.rows import one_thread
from aggregators.engine.rule import Combination, Option, Rule
from aggregators.engine.ties import FAR_TIE, TIE, in_order

if TYPE_CHECKING:
    from torch import Tensor

# An eigenvector's entries are rounded at 1e-16. Beside a payload of 1e8 honest ones are 1e-8.
_ROUNDING = 1e-14


def spectral_scores(gram: Gram) -> Tensor:
    """Square each client's projection on the main direction of the rows about their mean: (n,).

    In the n x n Gram about the mean, with largest eigenvalue λ and eigenvector u, client i has
    λ u_i². Where several directions share the largest eigenvalue to 1e-9, there is no main one:
    the projections on all of them are added, so that no solver's choice decides.
    """
    n = gram.num_clients
    clients = gram.centred[:n, :n]
    about_mean = clients - clients.mean(dim=0) - clients.mean(dim=1, keepdim=True) + clients.mean()
    with one_thread():
        eigenvalues, vectors = torch.linalg.eigh((about_mean + about_mean.T) / 2)
    top = eigenvalues >= eigenvalues[-1] * (1 - TIE)
    scores: Tensor = (vectors[:, top].square() * eigenvalues[top]).sum(dim=1)
    return scores


def dnc(gram: Gram, *, f: int, c: float = 1.0) -> Combination:
    """Drop the ceil(c f) updates of largest spectral score, average the rest.

    The paper scores random samples of b coordinates several times and averages the clients that
    are never dropped. This is its b = d, where every sample is all coordinates and one round says
    it all: nothing is drawn, and the scores come from the Gram. Roots of scores that differ by no
    more than 1e-12 of themselves plus 1e-14 of the largest are equal; of equal ones the lowest
    index stays.

    Args:
        gram: The clients' Gram.
        f: Clients that may be Byzantine, a count. Needs n >= 2f + 1.
        c: How many to drop for each of them. ceil(c f) must leave one.

    Returns:
        Equal weights on those kept. Facts: ``dropped``, ``scores``.

    Raises:
        ValueError: If n < 2f + 1, or nothing would be left.

    Source:
        Shejwalkar, Houmansadr 2021 (NDSS), https://doi.org/10.14722/ndss.2021.24498
    """
    n = gram.num_clients
    RULE.check_clients(n, f, {"c": c})
    scores = spectral_scores(gram)
    lengths = scores.clamp(min=0).sqrt()
    order = in_order(lengths, share=FAR_TIE, floor=_ROUNDING * lengths.max())
    kept, dropped = order[: n - _drops(f, c)], order[n - _drops(f, c) :]
    weights = torch.zeros(n + gram.num_extra, dtype=torch.float64)
    weights[kept] = 1 / len(kept)
    out = dropped.sort().values.to(torch.float64).tolist()
    return Combination(weights, {"dropped": out, "scores": scores.tolist()})


def _drops(f: int, c: float) -> int:
    """ceil(c f) of the decimal number that was written: in floats 1.12 * 25 is above 28."""
    return math.ceil(Fraction(str(c)) * f)


def _limit(n: int, f: int, c: float = 1.0) -> str | None:
    if _drops(f, c) < n:
        return None
    return f"needs ceil(c f) < n: got c={c:g}, f={f}, n={n}; lower c or f"


RULE = Rule(
    name="dnc",
    summary="Drop the updates with the largest share in the main direction of spread",
    source="Shejwalkar, Houmansadr 2021, https://doi.org/10.14722/ndss.2021.24498",
    condition="n >= 2f + 1",
    min_clients=lambda f: 2 * f + 1,
    kind="gram",
    function=dnc,
    options={"c": Option("How many to drop for each Byzantine client", float, 1.0, 0)},
    cost="n² d for the Gram, then n³ for its eigenvectors",
    kappa="unbounded: of attackers that point different ways, one may stay",
    reading="All coordinates at once (b = d), so one round and no random samples; drops ceil(c f)",
    limit=_limit,
)
