"""Inner product manipulation: a small step against the honest mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attacks.attack import Attack, Option
from attacks.statistics import mean, repeat
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor


def ipm(honest: Tensor, *, num_attackers: int, epsilon: float = 0.5) -> Tensor:
    """Send ``-epsilon * mean(honest)``, the same from every attacker.

    The aim is an aggregate whose inner product with the honest mean is negative. The mean over
    h honest and k attackers turns once ``epsilon > h / k``. A small epsilon (0.1 to 0.5) lies near
    the honest updates when these are short beside their spread, and Krum then picks it; an
    epsilon of 1 and more drags coordinate-wise rules. Distances alone do not see epsilon
    near 1 among non-IID clients.

    Args:
        honest: The updates the attackers see, shape (h, d), floating point.
        num_attackers: How many rows to craft.
        epsilon: Length of the step against the mean, relative to it.

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``.

    Raises:
        ValueError: If a view is malformed.

    Source:
        Xie, Koyejo, Gupta 2020 (Fall of Empires), https://arxiv.org/abs/1903.03936
    """
    check_view(honest, num_attackers=num_attackers)
    return repeat(-epsilon * mean(honest), like=honest, times=num_attackers)


ATTACK = Attack(
    name="ipm",
    summary="a step against the mean of the visible updates",
    source="Xie, Koyejo, Gupta 2020 (Fall of Empires), https://arxiv.org/abs/1903.03936",
    level="update",
    goal="harm",
    knowledge=("fellows", "all"),
    options={
        "epsilon": Option(
            kind=float, default=0.5, low=0.0, high=1e12, summary="length relative to the mean"
        ),
    },
    function=ipm,
)
