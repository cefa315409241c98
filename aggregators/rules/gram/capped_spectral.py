"""Capped spectral mean: no weight above 1/(n-f), and less weight where the updates spread most."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from aggregators.engine.gram import Gram, middle
from aggregators.engine.rows import one_thread
from aggregators.engine.rule import Combination, Facts, Rule
from aggregators.mixings.clipping import shrink

if TYPE_CHECKING:
    from torch import Tensor

_POWER = 12  # of the Schatten norm: near the top eigenvalue, and smooth where eigenvalues tie
_SLOW, _FAST = 0.1, 0.25  # step sizes
_SLOW_STEPS, _FAST_STEPS = 5, 48
_STEEPEST = 10.0  # how many times the average pull a row's pull counts at most, in one step
_LONGEST = 1.5  # median norms: what no update is longer than, after the cut
_SHORTEST = 1e-3  # median norms: what is shorter is not brought to the median norm, but filled up
_NEAR = 2.0  # a spread within this factor of the least one found is small enough
_ROUNDING = 1e-14  # of the squared radius: a spread below is that of equal rows


def capped_spectral(gram: Gram, *, f: int) -> Combination:
    """Average the updates, the longest cut, with weights that reduce their largest spread.

    The weights stay in the capped simplex, 0 <= w_i <= 1/(n-f) with sum one: at most f clients can
    have weight 0, and any f hold at most f/(n-f). They begin equal and move by multiplicative
    steps, w_i <- w_i exp(-eta (tau_i / sum w tau - 1)), brought back to the capped simplex in
    relative entropy. tau_i is how much client i adds to the size of the weighted covariance, its
    Schatten norm of order 12. Five steps of 0.1 are always made: they bring three identical rows of
    ten down to the weight of one, and leave rows that differ alike nearly equal. Steps of 0.25
    follow only until the covariance's norm is within twice the least on the whole path: rows that
    are far outside lose all weight, and rows within the honest spread keep theirs. Minimising the
    spread further would let attackers side with some honest clients and silence the others.

    No update counts as longer than the f + 1st longest, nor than 1.5 median norms: it is cut there.
    So at most f honest ones are cut where their norms are alike, and the aggregate is never longer
    than 1.5 median norms, for any number of attackers under half. The spread is that of two views
    together: the updates as cut, in which one of another length stands apart, and the updates
    brought to the median norm, in which none is near to all others by being short. (Below a
    thousandth of the median norm an update has no reliable direction: in the second view it gets
    the rest of its length in a separate direction.) The aggregate is made of the first view.

    f = 0 is the plain mean, uncut. Nothing is selected: between two steps the weights are
    interpolated to where the norm meets the bound, so that equal rows weigh the same and rounding
    decides nothing.

    Why it is bounded, where honest norms are within 1.5 medians: where the covariance in both views
    together has a top eigenvalue of at most twice that of the honest clients alone, any weights of
    the capped simplex are within (1 + sqrt 2)² f/(n-2f) of it from the honest mean, squared. That
    the path finds such weights is not proven; a search over attackers' rows has found at most 4
    f/(n-2f) times the honest variance (tests/aggregators/test_capped_spectral_under_search.py).
    Where norms are not alike the cut costs more: with half of the clients standing still, the
    median is 0 and nothing moves. No rule can bound both the error by f/(n-2f) and the length by
    the median there.

    Args:
        gram: The clients' Gram.
        f: Clients that may be Byzantine, a count. Needs n >= 2f + 1.

    Returns:
        Weights that sum to at most one: the rest is what the cut takes. Facts: ``radius``, ``cut``
        (what is left of each client's length), ``spread`` (the norm at the weights, over the
        squared median norm), ``steps``.

    Raises:
        ValueError: If n < 2f + 1.

    Source:
        Our own combination. The steps: Hopkins, Li, Zhang 2020 (regret minimisation over the
        capped simplex), https://arxiv.org/abs/2007.15839, and Zhu, Jiao, Steinhardt 2020,
        https://arxiv.org/abs/2005.14073; both go on to the end and cut nothing.
    """
    n = gram.num_clients
    RULE.check_clients(n, f)
    weights = torch.zeros(n + gram.num_extra, dtype=torch.float64)
    if f == 0:
        weights[:n] = 1 / n
        return Combination(weights, {"cut": [1.0] * n, "steps": 0.0})
    norms = gram.norms()
    median = middle(norms)
    radius = min(float(norms.sort(descending=True).values[f]), _LONGEST * median)
    factors = shrink(norms, radius)
    facts: Facts = {"radius": radius, "cut": factors.tolist()}
    if median**2 == 0:  # half of the clients or more stand still
        weights[:n] = factors / n
        return Combination(weights, {**facts, "steps": 0.0})
    short = norms < _SHORTEST * median
    whole = torch.where(short, 1 / _SHORTEST, median / norms)
    products = (_products(gram, factors) + _products(gram, whole)) / median**2
    products += torch.diag(torch.where(short, 1 - (whole * norms / median).square(), 0.0))
    shares, spread, steps = _weigh(products, 1 / (n - f))
    weights[:n] = shares * factors
    return Combination(weights, {**facts, "spread": spread, "steps": steps})


def _products(gram: Gram, factors: Tensor) -> Tensor:
    """Inner products of the scaled clients about some reference, shape (n, n)."""
    n = gram.num_clients
    return gram.mixed(torch.diag(factors)).centred[:n, :n]


def _weigh(products: Tensor, cap: float) -> tuple[Tensor, float, float]:
    """Weights in the capped simplex, the spread that they leave, and the steps made."""
    weights = torch.full((len(products),), 1 / len(products), dtype=torch.float64)
    path, spreads = [], []
    with one_thread():
        for step in range(_SLOW_STEPS + _FAST_STEPS + 1):
            spread, pulls = _spread(products, weights)
            path.append(weights)
            spreads.append(max(spread, _ROUNDING))
            if spread <= _ROUNDING:
                break  # the rows with weight are one point
            size = _SLOW if step < _SLOW_STEPS else _FAST
            relative = (pulls / (weights @ pulls)).clamp(max=_STEEPEST)
            weights = capped(weights * torch.exp(-size * (relative - 1)), cap)
    first = min(_SLOW_STEPS, len(path) - 1)
    bound = _NEAR * min(spreads[first:])
    at = next(k for k in range(first, len(path)) if spreads[k] <= bound)
    if at == first:
        return path[at], spreads[at], float(at)
    before, after = math.log(spreads[at - 1]), math.log(spreads[at])
    part = (before - math.log(bound)) / (before - after)
    return torch.lerp(path[at - 1], path[at], part), bound, at - 1 + part


def _spread(products: Tensor, weights: Tensor) -> tuple[float, Tensor]:
    """The Schatten norm of the weighted covariance, and each row's pull on it up to a factor.

    With X the rows about their weighted mean and s = sqrt(w), the covariance XᵀS²X has the
    eigenvalues of SXXᵀS. Row i's pull is x_iᵀ C^(p-1) x_i, p the order.
    """
    towards = products @ weights
    own = products - towards[:, None] - towards[None, :] + weights @ towards
    roots = weights.sqrt()
    values, vectors = torch.linalg.eigh(roots[:, None] * own * roots[None, :])
    top = float(values[-1])
    if top <= 0:
        return 0.0, torch.ones_like(weights)
    shares = values.clamp(min=0) / top
    along = own @ (roots[:, None] * vectors)
    pulls = along.square() @ shares.pow(_POWER - 2)
    return top * float(shares.pow(_POWER).sum()) ** (1 / _POWER), pulls


def capped(weights: Tensor, cap: float) -> Tensor:
    """Bring positive weights to the capped simplex: the nearest there in relative entropy.

    Those above the cap come to it and the others grow by one factor, until none is above.

    Args:
        weights: Positive, shape (n,).
        cap: At least 1/n.
    """
    weights = weights / weights.sum()
    full = torch.zeros_like(weights, dtype=torch.bool)
    while bool((over := (weights > cap) & ~full).any()):
        full |= over
        rest = weights.masked_fill(full, 0.0)
        left = max(1 - cap * int(full.sum()), 0.0)
        weights = torch.where(full, cap, rest * (left / rest.sum().clamp(min=1e-300)))
    return weights


RULE = Rule(
    name="capped_spectral",
    summary="The mean with no weight above 1/(n-f), less of what spreads most, the longest cut",
    source="Our own; near Hopkins, Li, Zhang 2020, https://arxiv.org/abs/2007.15839",
    condition="n >= 2f + 1",
    min_clients=lambda f: 2 * f + 1,
    kind="gram",
    function=capped_spectral,
    cost="n² d for the Gram, then up to 54 eigenvalue problems of n x n",
    kappa=(
        "at most 4 f/(n-2f) of the honest variance in every search over attackers' rows, honest "
        "norms being alike; not proven. The aggregate is no longer than 1.5 median norms; no "
        "weight is above 1/(n-f)"
    ),
    reading="Weights by the updates as cut and at the median norm, together",
)
