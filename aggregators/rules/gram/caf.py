"""CAF: take weight from the updates along the direction of largest covariance, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from aggregators.engine.gram import Gram
from aggregators.engine.rows import one_thread
from aggregators.engine.rule import Combination, Rule
from aggregators.engine.ties import TIE

if TYPE_CHECKING:
    from torch import Tensor

# A weight below this is rounding of zero: rows that send the same payload reach zero together.
_GONE = 1e-9
# Rows with a spread of this share of their squared distance to the Gram's reference row are one
# point: of rows that are equal by definition, mixed ones too, the products differ by 1e-15.
_ROUNDING = 1e-13


def caf(gram: Gram, *, f: int) -> Combination:
    """Filter by covariance, without a bound on it, and return the mean where it was least.

    All weights c start at one. While they sum to more than n - 2f: take the weighted mean and
    covariance, the covariance's top eigenvector v, and tau_i = <x_i - mean, v>²; multiply c_i by
    1 - tau_i / tau_max. The answer is the weighted mean with the least top eigenvalue seen. The
    first is the plain mean, so f = 0 is the plain mean.

    Ties: of eigenvalues equal to 1e-9 the earliest is the least; weights that sum to n - 2f to
    1e-9 do not sum to more. Rows are one point, with an eigenvalue of 0, where it is below 1e-13 of
    their squared distance to the Gram's reference row; then the filter ends.

    tau_max is the largest over the *active* rows, those with weight. Then each step takes the
    last weight of one row at least, and there are at most n steps. A peer takes it over all
    rows: once a payload of 1e4 has weight zero, the other weights hardly move, and it hangs.

    Where the top eigenvalue is tied, to 1e-9, as in symmetric rows, no single eigenvector is meant
    by the paper: tau_i is then the squared length of the projection on the eigenspace. Each
    eigenvector satisfies the paper's inequality, so their sum does, and the order of the clients
    and the axes do not matter. A weight that falls below 1e-9 of what it was is zero.

    Args:
        gram: The clients' Gram.
        f: Clients that may be Byzantine, a count. Needs n >= 2f + 1.

    Returns:
        Weights that sum to one. Facts: ``eigenvalue`` (the least), ``steps``, ``chosen_step``
        (0 is the plain mean), ``active`` (rows with weight).

    Raises:
        ValueError: If n < 2f + 1.

    Source:
        Allouah, Guerraoui, Stephan 2025, Algorithm 2, https://arxiv.org/abs/2505.01874
    """
    n = gram.num_clients
    RULE.check_clients(n, f)
    products = gram.centred[:n, :n]
    largest = float(products.diagonal().max())
    relative = products / largest if largest > 0 else products
    c = torch.ones(n, dtype=torch.float64)
    best, shares, chosen, steps = torch.inf, c / n, 0, 0
    while steps == 0 or float(c.sum()) > (n - 2 * f) * (1 + TIE):
        eigenvalue, tau = _top_direction(relative, c)
        if eigenvalue < best * (1 - TIE):
            best, shares, chosen = eigenvalue, c / c.sum(), steps
        steps += 1
        if not float(tau.max()) > 0:
            break  # the active rows are one point
        left = 1 - tau / tau.max()
        c = torch.where(left > _GONE, c * left, 0.0)
    weights = torch.zeros(n + gram.num_extra, dtype=torch.float64)
    weights[:n] = shares
    facts = {"eigenvalue": best * largest, "steps": float(steps), "chosen_step": float(chosen)}
    return Combination(weights, {**facts, "active": float((shares > 0).sum())})


def _top_direction(products: Tensor, c: Tensor) -> tuple[float, Tensor]:
    """The top eigenvalue of the weighted covariance, and each row's tau.

    With X the active rows about their weighted mean and s = sqrt(c), the covariance XᵀS²X / sum c
    has the eigenvalues of SXXᵀS / sum c, and an eigenvector u of the latter stands for v = XᵀSu,
    so <x_i - mean, v> is row i of XXᵀSu.

    Args:
        products: Inner products of the clients about one reference, shape (n, n).
        c: Weights, shape (n,).

    Returns:
        The eigenvalue, and tau up to a factor, shape (n,), zero for rows without weight.
    """
    active = c.nonzero()[:, 0]
    shares = c[active] / c[active].sum()
    tau = torch.zeros_like(c)
    with one_thread():
        own = products[active][:, active]
        around = own.diagonal().max()
        to_mean = own @ shares
        own = own - to_mean[:, None] - to_mean[None, :] + shares @ to_mean
        roots = shares.sqrt()
        values, vectors = torch.linalg.eigh(roots[:, None] * own * roots[None, :])
        if values[-1] <= _ROUNDING * around:
            return 0.0, tau  # one point; below zero no vector would be the top one
        top = vectors[:, values >= values[-1] * (1 - TIE)]
        along = own @ (roots[:, None] * top)
    scale = along.abs().max()
    if scale == 0:
        return 0.0, tau
    tau[active] = (along / scale).square().sum(dim=1)
    return float(values[-1]), tau


RULE = Rule(
    name="caf",
    summary="The mean after taking weight from rows along the largest covariance",
    source="Allouah, Guerraoui, Stephan 2025, https://arxiv.org/abs/2505.01874",
    condition="n >= 2f + 1",
    min_clients=lambda f: 2 * f + 1,
    kind="gram",
    function=caf,
    cost="n² d for the Gram, and at most n eigenvalue problems of n x n",
    kappa="of order f/n, by the honest covariance's top eigenvalue; no constant is checked here",
    reading=(
        "tau_max over the rows that still have weight, so that it ends; a tied top eigenvalue "
        "counts with its whole eigenspace"
    ),
)
