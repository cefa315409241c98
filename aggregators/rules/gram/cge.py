"""Comparative gradient elimination: the shortest updates are averaged."""

from __future__ import annotations

import torch

from aggregators.engine.gram import Gram
from aggregators.engine.rule import Combination, Rule
from aggregators.engine.ties import in_order


def cge(gram: Gram, *, f: int) -> Combination:
    """Average the n-f updates of least norm.

    The paper sums them; here it is the mean, so that the aggregate has the scale of one update
    and a learning rate means the same under every rule. Norms equal to 1e-9 of themselves: the
    lowest index first.
    An attacker shorter than the honest always stays, wherever it points.

    Args:
        gram: The clients' Gram.
        f: Clients that may be Byzantine, a count. Needs n >= 2f + 1.

    Returns:
        Weight 1/(n-f) on each of the shortest. Facts: ``selected`` (shortest first).

    Raises:
        ValueError: If n < 2f + 1.

    Source:
        Gupta, Liu, Vaidya 2020, https://arxiv.org/abs/2008.04699
    """
    n = gram.num_clients
    RULE.check_clients(n, f)
    selected = in_order(gram.norms())[: n - f]
    weights = torch.zeros(n + gram.num_extra, dtype=torch.float64)
    weights[selected] = 1 / (n - f)
    return Combination(weights, {"selected": selected.to(torch.float64).tolist()})


RULE = Rule(
    name="cge",
    summary="The average of the n-f updates of least norm",
    source="Gupta, Liu, Vaidya 2020, https://arxiv.org/abs/2008.04699",
    condition="n >= 2f + 1",
    min_clients=lambda f: 2 * f + 1,
    kind="gram",
    function=cge,
    cost="n² d for the Gram, then n log n",
    kappa="unbounded: norms say nothing about how far apart the honest are",
    reading="The mean of the n-f shortest, where the paper takes their sum",
)
