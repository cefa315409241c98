"""Min-Sum: no farther from all honest updates together than the farthest honest one is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attacks.attack import Attack
from attacks.scene import Scene
from attacks.updates.farthest import DIRECTION, Measure, farthest_rows

if TYPE_CHECKING:
    from torch import Tensor


def min_sum(
    honest: Tensor, *, num_attackers: int, direction: str = "std", scene: Scene | None = None
) -> Tensor:
    """Send ``mu + gamma * p`` no farther from the honest updates in sum than one of these is.

    The greatest gamma with ``sum_i ||mu + gamma p - x_i||^2 <= max_i sum_j ||x_i - x_j||^2``, the
    same row from every attacker; the directions p are those of ``min_max``. Stealthier than
    ``min_max``: the length of ``gamma p`` is the greatest ``||x_i - mu||``, whatever the
    direction. Knows no rule.

    Args:
        honest: The updates the attackers see, shape (h, d) with h >= 2.
        num_attackers: How many rows to craft.
        direction: "unit", "sign", "std", or "best": of the three the one that moves
            ``scene.defence`` most; where none is known all three get equally far, and it is
            unit, or std at a mean of zero.
        scene: Looked at under "best" alone.

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``; the mean where
        the direction is zero, as unit and sign are at a mean of zero.

    Raises:
        ValueError: If fewer than two updates are visible, ``direction`` is unknown, the
            defence returns what is negative, NaN or infinite, or a view is malformed.

    Source:
        Shejwalkar, Houmansadr 2021 (AGR-agnostic Min-Sum),
        https://www.ndss-symposium.org/ndss-paper/manipulating-the-byzantine-optimizing-model-poisoning-attacks-and-defenses-for-federated-learning/
    """
    return farthest_rows(
        "min_sum",
        honest,
        num_attackers=num_attackers,
        direction=direction,
        measure=Measure(of=lambda squared: squared.sum(), step=_step),
        scene=scene,
    )


def _step(centred: Tensor, p: Tensor, bound: Tensor) -> Tensor:
    """Root of ``h gamma^2 ||p||^2 + sum_i ||c_i||^2 = bound``: the inner products sum to zero."""
    left = (bound - centred.square().sum()).clamp(min=0)  # below 0 by rounding alone
    return (left / (len(centred) * (p @ p))).sqrt()


ATTACK = Attack(
    name="min_sum",
    summary="no farther from all honest updates together than one of these is",
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
    function=min_sum,
)
