"""Krum: the one update that is closest to its neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from aggregators.engine.gram import Gram
from aggregators.engine.rule import Combination, Rule
from aggregators.engine.ties import first_least

if TYPE_CHECKING:
    from torch import Tensor


def krum_scores(gram: Gram, *, f: int) -> Tensor:
    """Sum each client's squared distances to its n-f-2 nearest others, shape (n,).

    The count is the paper's. Peers also use n-f-1, or count the client itself.
    """
    distances = gram.squared_distances()
    distances.fill_diagonal_(torch.inf)
    return distances.sort(dim=1).values[:, : gram.num_clients - f - 2].sum(dim=1)


def krum(gram: Gram, *, f: int) -> Combination:
    """Select the update with the least sum of squared distances to its n-f-2 nearest others.

    Scores equal to 1e-9 of themselves: the lowest index.

    Args:
        gram: The clients' Gram.
        f: Clients that may be Byzantine, a count. Needs n >= 2f + 3.

    Returns:
        Weight one on the selected client. Facts: ``selected``, ``scores``.

    Raises:
        ValueError: If n < 2f + 3.

    Source:
        Blanchard et al. 2017, https://arxiv.org/abs/1703.02757
    """
    RULE.check_clients(gram.num_clients, f)
    scores = krum_scores(gram, f=f)
    selected = first_least(scores)
    weights = torch.zeros(gram.num_clients + gram.num_extra, dtype=torch.float64)
    weights[selected] = 1
    return Combination(weights, {"selected": float(selected), "scores": scores.tolist()})


RULE = Rule(
    name="krum",
    summary="The one update with the least squared distances to its n-f-2 nearest others",
    source="Blanchard et al. 2017, https://arxiv.org/abs/1703.02757",
    condition="n >= 2f + 3",
    min_clients=lambda f: 2 * f + 3,
    kind="gram",
    function=krum,
    cost="n² d for the Gram",
    kappa="6 (1 + f/(n-2f))",
    bound=lambda n, f: 6 * (1 + f / (n - 2 * f)),
    reading="squared distances to the n-f-2 nearest others, the client itself not counted",
)
