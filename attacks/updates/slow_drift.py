"""Slow drift: a small step in the same direction in every round."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attacks.attack import Attack, Option
from attacks.noise import normal
from attacks.past import recall
from attacks.scene import Scene
from attacks.statistics import mean
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor

_KEY = "slow_drift.direction"
_TOO_FEW = 2  # one update has no distance from the mean


def slow_drift(
    honest: Tensor,
    *,
    num_attackers: int,
    scene: Scene,
    generator: torch.Generator | None,
    towards: str = "random",
    size: float = 0.5,
    spread: float = 0.5,
) -> Tensor:
    """Send ``mu + size * D * p`` and noise, with the same unit vector p in every round.

    mu is the mean of the visible updates and D the median of their distances from it (of an even
    count the average of the middle two). Honest errors cancel over rounds, the drift adds up; in
    each single round the attackers are nearer to the mean than most honest clients, so a rule that
    forgets has no ground to drop them. The noise has an expected squared length of
    ``(spread * D)^2`` for each attacker, so that they are no duplicates.

    p is drawn in the first round ("random") or stands against the first visible mean that is not
    zero ("against"); until there is one, no step is made. Updates that are all equal leave no
    room to hide, D = 0: their mean is sent.

    Args:
        honest: The updates the attackers see, shape (h, d) with h >= 2, floating point.
        num_attackers: How many rows to craft.
        scene: Its memory keeps p.
        generator: Source of the noise and of p; required.
        towards: "random" or "against".
        size: Length of the step relative to D.
        spread: Length of each attacker's noise relative to D.

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``.

    Raises:
        ValueError: If fewer than two updates are visible, ``generator`` is missing, ``towards`` is
            unknown, or a view or the memory is malformed.

    Source:
        The idea is that of Karimireddy, He, Jaggi 2021 (Learning from history): what fits in the
        noise of one round adds up over rounds, https://arxiv.org/abs/2012.10333. In this form it
        is defined here.
    """
    check_view(honest, num_attackers=num_attackers)
    if towards not in ("random", "against"):
        raise ValueError(f"slow_drift.towards needs 'random' or 'against': got {towards!r}")
    if len(honest) < _TOO_FEW:
        raise ValueError(
            f"slow_drift needs >= 2 visible updates for a distance: got {len(honest)}; "
            "widen what the attackers see or use ipm"
        )
    d, mu = honest.shape[1], mean(honest)
    room = torch.quantile((honest.double() - mu).norm(dim=1), 0.5)
    # the noise first: a round tried again draws no direction, and must draw the same noise
    noise = normal("slow_drift", (num_attackers, d), generator=generator, like=honest)
    p = recall(scene, _KEY, like=mu[None])
    if p is None:
        drawn = normal("slow_drift", (d,), generator=generator, like=honest)
        p = _first(scene, drawn if towards == "random" else -mu)
    crafted: Tensor = mu + room * (size * p + spread * d**-0.5 * noise)
    return crafted.to(honest.dtype)


def _first(scene: Scene, aim: Tensor) -> Tensor:
    """Remember which way ``aim`` points; zeros, and no memory, where it points nowhere."""
    if not bool(aim.any()):
        return aim
    scene.memory[_KEY] = aim / aim.norm()
    return scene.memory[_KEY]


ATTACK = Attack(
    name="slow_drift",
    summary="the visible mean and a small step, in the same direction in every round",
    source="after Karimireddy, He, Jaggi 2021, https://arxiv.org/abs/2012.10333",
    level="update",
    goal="harm",
    knowledge=("fellows", "all"),
    options={
        "towards": Option(
            kind=str,
            default="random",
            choices=("random", "against"),
            summary="the direction: drawn once, or against the first visible mean",
        ),
        "size": Option(
            kind=float,
            default=0.5,
            low=0.0,
            high=1e12,
            summary="step, in median distances of the visible updates from their mean",
        ),
        "spread": Option(
            kind=float, default=0.5, low=0.0, high=1e12, summary="noise of each attacker, likewise"
        ),
    },
    takes=("generator", "scene"),
    function=slow_drift,
)
