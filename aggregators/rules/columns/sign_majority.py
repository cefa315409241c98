"""Majority vote of the signs: every client has one vote per coordinate, whatever its size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from aggregators.engine.rule import Kept, Option, Rule
from aggregators.engine.sorting import row_chunks

if TYPE_CHECKING:
    from torch import Tensor


def sign_majority(updates: Tensor, *, f: int, scale: float, step: float | None = None) -> Kept:
    """Take a step of one length in every coordinate, in the direction that more clients vote for.

    A zero is no vote, and a tied vote is no step.

    Args:
        updates: One client update per row, shape (n, d), floating point.
        f: Clients that may be Byzantine, a count. Needs n >= 2f + 1; not used otherwise.
        scale: The median over the clients of the root mean square of their coordinates.
        step: Length of the step in each coordinate, in the units of the updates; None for
            ``scale``, so that the aggregate has the median client's norm where no vote is tied.

    Returns:
        The steps, float64, and the bounds of the winning sign's values: (0, inf), (-inf, 0) or,
        where the vote is tied, 0.

    Raises:
        ValueError: If n < 2f + 1.

    Source:
        Bernstein et al. 2018 ("majority vote"), https://arxiv.org/abs/1810.05291
    """
    RULE.check_clients(len(updates), f)
    winner = count_votes(updates).sign_()
    least = torch.zeros_like(winner).nextafter(torch.ones_like(winner))
    none = torch.zeros_like(winner)
    low = torch.where(winner > 0, least, torch.where(winner < 0, -torch.inf, none))
    high = torch.where(winner < 0, -least, torch.where(winner > 0, torch.inf, none))
    length = scale if step is None else step
    return Kept(winner.to(torch.float64) * length, low, high)


def count_votes(block: Tensor) -> Tensor:
    """Sum the signs of each column: (n, w) -> (w,), float32 or, of float64, float64."""
    votes = block.new_zeros(block.shape[1], dtype=torch.promote_types(block.dtype, torch.float32))
    for columns, rows in row_chunks(block):
        for row in rows:
            votes[columns] += row.sign()
    return votes


RULE = Rule(
    name="sign_majority",
    summary="One step in every coordinate, in the direction that more clients vote for",
    source="Bernstein et al. 2018, https://arxiv.org/abs/1810.05291",
    condition="n >= 2f + 1",
    min_clients=lambda f: 2 * f + 1,
    kind="columns",
    function=sign_majority,
    options={
        "step": Option(
            "Length of the step; null is the median client's root mean square", float, None, 1e-30
        )
    },
    cost="n d",
    kappa="none: equal updates do not come back, only their signs do",
    reading="A zero is no vote, a tie is no step. The paper's step is a learning rate; unless "
    "given it is the median client's root mean square coordinate.",
    takes_scale=True,
)
