"""The mean: FedAvg's rule, and no defence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from aggregators.engine.gram import Gram
from aggregators.engine.rule import Combination, Rule

if TYPE_CHECKING:
    from torch import Tensor


def mean(gram: Gram, *, f: int, shares: Tensor | None = None) -> Combination:
    """Weigh every client alike, or as the owner says; never by what it reports about itself.

    Args:
        gram: The clients' Gram.
        f: Not used: one Byzantine client moves the mean anywhere.
        shares: The owner's weights, summing to one, shape (n,); all alike if None.

    Returns:
        Weights 1/n, or the shares.

    Source:
        McMahan et al. 2017, Algorithm 1 with equal n_k, https://arxiv.org/abs/1602.05629
    """
    n = gram.num_clients
    RULE.check_clients(n, f)
    weights = torch.zeros(n + gram.num_extra, dtype=torch.float64)
    weights[:n] = 1 / n if shares is None else shares
    return Combination(weights)


RULE = Rule(
    name="mean",
    summary="The average of all updates; no defence, the control in every table",
    source="McMahan et al. 2017, Algorithm 1, https://arxiv.org/abs/1602.05629",
    condition="n >= 1",
    min_clients=lambda f: 1,
    kind="gram",
    function=mean,
    needs_f=False,
    cost="n d",
    kappa="unbounded: one client moves it anywhere",
    reading="every client weighs alike unless the owner says otherwise",
    takes_shares=True,
    blind=True,
)
