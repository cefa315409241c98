"""Robust learning rate: step back where too few clients agree on the direction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from aggregators.engine.rule import Kept, Option, Rule
from aggregators.engine.sorting import row_chunks
from aggregators.rules.columns.sign_majority import count_votes

if TYPE_CHECKING:
    from torch import Tensor


def rlr(updates: Tensor, *, f: int, theta: int | None = None) -> Kept:
    """Average each coordinate, and turn its sign where the votes for a direction fall short.

    The learning rate is +1 where |sum of the clients' signs| >= theta, else -1. It is no bound on
    what one client does: the mean keeps its size.

    Args:
        updates: One client update per row, shape (n, d), floating point.
        f: Clients that may be Byzantine, a count. Needs n >= 2f + 1.
        theta: Votes by which one direction has to lead, 1 to n; None for 2f + 1: then f attackers
            that change sides leave the direction as it is.

    Returns:
        The means with their signs, float64; every value had a say.

    Raises:
        ValueError: If n < 2f + 1, or theta > n.

    Source:
        Ozdayi et al. 2021, https://arxiv.org/abs/2007.03767
    """
    n = len(updates)
    RULE.check_clients(n, f, {"theta": theta})
    needed = 2 * f + 1 if theta is None else theta
    values = updates.new_zeros(updates.shape[1], dtype=torch.float64)
    for columns, rows in row_chunks(updates):
        for row in rows:
            values[columns] += row
    values /= n
    values *= (count_votes(updates).abs() >= needed).to(torch.float64).mul_(2).sub_(1)
    ends = updates.new_full((2, updates.shape[1]), torch.inf)
    return Kept(values, -ends[0], ends[1])


def _limit(n: int, f: int, theta: int | None = None) -> str | None:
    if theta is None or theta <= n:
        return None
    return f"needs 1 <= theta <= n: got theta={theta}, n={n}; set theta to {n} or less"


RULE = Rule(
    name="rlr",
    summary="The mean, turned round in coordinates where too few clients agree on the sign",
    source="Ozdayi et al. 2021, https://arxiv.org/abs/2007.03767",
    condition="n >= 2f + 1",
    min_clients=lambda f: 2 * f + 1,
    kind="columns",
    function=rlr,
    options={"theta": Option("Votes by which a sign has to lead; null is 2f + 1", int, None, 1)},
    cost="n d",
    kappa="unbounded: it averages, and one client moves the mean anywhere",
    reading="The vote is |sum of signs|, the lead of one sign over the other. The paper leaves "
    "theta to the user; 2f + 1 is the least that f attackers cannot overturn by changing sides.",
    limit=_limit,
)
