"""A constant: the same value in every coordinate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attacks.attack import Attack, Option
from attacks.statistics import repeat, rms
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor


def constant(honest: Tensor, *, num_attackers: int, scale: float = 10.0) -> Tensor:
    """Send ``scale * RMS(honest)`` in every coordinate, the same from every attacker.

    RMS is the root mean square over all coordinates of all visible updates, so that the same
    recipe means the same at any size of updates; the paper's value is absolute. At scale 1 the row
    is as long as an honest update, and all-zero updates make it zero. Hurts the mean; any rule
    with a breakdown point holds.

    Args:
        honest: The updates the attackers see, shape (h, d), floating point.
        num_attackers: How many rows to craft.
        scale: The value, in RMS coordinates of ``honest``; may be negative.

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``.

    Raises:
        ValueError: If a view is malformed.

    Source:
        Li et al. 2019 (RSA), same-value attack, https://arxiv.org/abs/1811.03761
    """
    check_view(honest, num_attackers=num_attackers)
    row = torch.ones(honest.shape[1], dtype=torch.float64, device=honest.device)
    return repeat(scale * rms(honest) * row, like=honest, times=num_attackers)


ATTACK = Attack(
    name="constant",
    summary="the same value in every coordinate",
    source="Li et al. 2019 (RSA), same-value attack, https://arxiv.org/abs/1811.03761",
    level="update",
    goal="harm",
    knowledge=("own", "fellows", "all"),
    options={
        "scale": Option(
            kind=float,
            default=10.0,
            low=-1e12,
            high=1e12,
            summary="the value, in multiples of the visible updates' RMS coordinate",
        ),
    },
    function=constant,
)
