"""Nearest-neighbour mixing: each row becomes the mean of its n-f nearest rows."""

from __future__ import annotations

import torch

from aggregators.engine.gram import Gram
from aggregators.engine.rule import Mixture, Rule
from aggregators.engine.ties import FAR_TIE, levels


def nnm(gram: Gram, *, f: int) -> Mixture:
    """Replace each row by the mean of its n-f nearest rows, itself included.

    Squared distances equal to 1e-12 of themselves: the lowest index first, after the row itself.

    Args:
        gram: The clients' Gram.
        f: Clients that may be Byzantine, a count. Needs n >= 2f + 1.

    Returns:
        The (n, n) matrix of weights 1/(n-f). Facts: ``chosen_by``, how many rows each client was
        mixed into, its own included.

    Raises:
        ValueError: If n < 2f + 1.

    Source:
        Allouah et al. 2023 (nearest-neighbour mixing), https://arxiv.org/abs/2302.01772
    """
    n = gram.num_clients
    RULE.check_clients(n, f)
    near = levels(gram.squared_distances(), share=FAR_TIE)
    near.fill_diagonal_(-1)  # itself before its equals
    nearest = near.sort(dim=1, stable=True).indices[:, : n - f]
    matrix = torch.zeros(n, n, dtype=torch.float64)
    matrix.scatter_(1, nearest, 1 / (n - f))
    return Mixture(matrix, {"chosen_by": (matrix > 0).sum(dim=0).to(torch.float64).tolist()})


RULE = Rule(
    name="nnm",
    summary="Replace each update by the mean of its n-f nearest, itself included",
    source="Allouah et al. 2023, https://arxiv.org/abs/2302.01772",
    condition="n >= 2f + 1",
    min_clients=lambda f: 2 * f + 1,
    kind="mixing",
    function=nnm,
    cost="n² d for the Gram, then n² log n",
    kappa="turns the kappa of the rule after it into at most 8f/(n-f) * (kappa + 1)",
    reading="The n-f nearest count the row itself, first among its equals",
)
