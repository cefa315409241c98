"""Min-Max: as far from the honest mean as two honest updates are from each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attacks.attack import Attack
from attacks.scene import Scene
from attacks.updates.farthest import DIRECTION, Measure, farthest_rows

if TYPE_CHECKING:
    from torch import Tensor


def min_max(
    honest: Tensor, *, num_attackers: int, direction: str = "std", scene: Scene | None = None
) -> Tensor:
    """Send ``mu + gamma * p`` no farther from any honest update than two of these are apart.

    The greatest gamma with ``max_i ||mu + gamma p - x_i|| <= max_ij ||x_i - x_j||``, the same row
    from every attacker. p is ``-mu / ||mu||`` (unit), ``-sign(mu)`` (sign) or ``-sigma`` (std); the
    length of p does not matter. Knows no rule. Hurts Krum, multi-Krum, Bulyan and MeaMed. One peer
    ends its search on a gamma that may break the bound; here the row that is sent keeps it.

    Args:
        honest: The updates the attackers see, shape (h, d) with h >= 2.
        num_attackers: How many rows to craft.
        direction: "unit", "sign", "std", or "best": of the three the one that moves
            ``scene.defence`` most, and where none is known the one that gets farthest.
        scene: Looked at under "best" alone.

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``; the mean where
        the direction is zero, as unit and sign are at a mean of zero.

    Raises:
        ValueError: If fewer than two updates are visible, ``direction`` is unknown, the
            defence returns what is negative, NaN or infinite, or a view is malformed.

    Source:
        Shejwalkar, Houmansadr 2021 (AGR-agnostic Min-Max),
        https://www.ndss-symposium.org/ndss-paper/manipulating-the-byzantine-optimizing-model-poisoning-attacks-and-defenses-for-federated-learning/
    """
    return farthest_rows(
        "min_max",
        honest,
        num_attackers=num_attackers,
        direction=direction,
        measure=Measure(of=lambda squared: squared.max(), step=_step),
        scene=scene,
    )


def _step(centred: Tensor, p: Tensor, bound: Tensor) -> Tensor:
    """Least over i of the positive root of ``||gamma p - c_i||^2 = bound``."""
    square, inner = p @ p, centred @ p
    left = (bound - centred.square().sum(dim=1)).clamp(min=0)  # below 0 by rounding alone
    return ((inner + (inner.square() + square * left).sqrt()) / square).min()


ATTACK = Attack(
    name="min_max",
    summary="as far from any honest update as two of these are apart",
    source=(
        "Shejwalkar, Houmansadr 2021, https://www.ndss-symposium.org/ndss-paper/"
        "manipulating-the-byzantine-optimizing-model-poisoning-attacks-and-defenses"
        "-for-federated-learning/"
    ),
    level="update",
    goal="harm",
    knowledge=("fellows", "all"),
    options={"direction": DIRECTION},
    takes=("scene",),
    function=min_max,
)
