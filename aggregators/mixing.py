"""Mixing: replace each row by a combination of rows before a rule sees them.

A mixing is a matrix W over the clients. A rule on the Gram matrix then runs on W G Wᵀ, and its
weights w come back to the clients as Wᵀ w; nothing of length d is formed.
"""

import torch

from aggregators.gram import Gram
from aggregators.rule import Mixture, Rule


def nnm(gram: Gram, *, f: int) -> Mixture:
    """Replace each row by the mean of its n-f nearest rows, itself included.

    Equal distances: the lowest index first, after the row itself.

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
    NNM.check_clients(n, f)
    distances = gram.squared_distances().fill_diagonal_(-1)  # itself before its equals
    nearest = distances.sort(dim=1, stable=True).indices[:, : n - f]
    matrix = torch.zeros(n, n, dtype=torch.float64)
    matrix.scatter_(1, nearest, 1 / (n - f))
    return Mixture(matrix, {"chosen_by": (matrix > 0).sum(dim=0).to(torch.float64).tolist()})


NNM = Rule(
    name="nnm",
    summary="Replace each update by the mean of its n-f nearest, itself included",
    source="Allouah et al. 2023, https://arxiv.org/abs/2302.01772",
    condition="n >= 2f + 1",
    min_clients=lambda f: 2 * f + 1,
    kind="mixing",
    function=nnm,
)
