"""Neurotoxin: a malicious update restricted to coordinates that honest clients hardly move."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from attacks.attack import Attack, Option
from attacks.past import last_step
from attacks.scene import Scene
from attacks.statistics import mean
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor


def neurotoxin(
    honest: Tensor,
    *,
    num_attackers: int,
    scene: Scene,
    own: Tensor | None = None,
    of: str = "mean",
    scale: float = 1.0,
    keep: float = 0.95,
) -> Tensor:
    """Send a malicious update without the coordinates that the last outer step moved most.

    Coordinates that honest clients hardly move are hardly repaired by them, so the effect lasts
    after the attack. With "mean" the malicious update is ``-scale * mean(honest)``; with "own" it
    is ``scale * own_i``, trained on poisoned data: then the attack is the paper's, which makes a
    backdoor last. In the first round there is no outer step, and the mean of the visible updates
    stands in for it.

    The paper projects every local gradient step; this projects the finished update, which for
    plain SGD with one mask is the same. Its mask is the top 5 % of the last aggregate (its code
    keeps 0.95). Here the scene's last outer step takes the aggregate's place, for that is what a
    client sees; after a step with momentum the two differ.

    Args:
        honest: The updates the attackers see, shape (h, d), floating point.
        num_attackers: How many rows to craft.
        scene: Its ``last`` is the step that the mask is taken from.
        own: What each attacker has trained, shape (num_attackers, d); needed of "own".
        of: "mean" or "own".
        scale: Length relative to that update.
        keep: Fraction of the coordinates that are attacked, those of least magnitude;
            floor(keep * d) of them. Equal magnitudes: the first index counts as greater.

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``.

    Raises:
        ValueError: If a view is malformed, ``of`` is unknown or lacks ``own``, or no coordinate
            is left.

    Source:
        Zhang et al. 2022, Algorithm 1, https://arxiv.org/abs/2206.10341
    """
    check_view(honest, num_attackers=num_attackers, own=own)
    if of not in ("mean", "own"):
        raise ValueError(f"neurotoxin.of needs 'mean' or 'own': got {of!r}")
    if of == "mean":
        crafted = (-scale * mean(honest)).repeat(num_attackers, 1)
    elif own is None:
        raise ValueError("neurotoxin of=own needs own: got None; pass own, or set of=mean")
    else:
        crafted = scale * own.double()
    step = last_step(scene, like=honest)
    crafted[:, _loud(mean(honest) if step is None else step, keep)] = 0.0
    return crafted.to(honest.dtype)


def _loud(step: Tensor, keep: float) -> Tensor:
    """Indices of the coordinates of greatest magnitude, all but ``floor(keep * d)``."""
    d = len(step)
    kept = math.floor(round(keep * d, 6))  # 0.29 * 100 is 28.999...
    if kept < 1:
        raise ValueError(
            f"neurotoxin needs keep * d >= 1, a coordinate to attack: got {keep} * {d}; raise keep"
        )
    return torch.argsort(step.abs(), descending=True, stable=True)[: d - kept]


ATTACK = Attack(
    name="neurotoxin",
    summary="against the mean, but only where the last outer step moved little",
    source="Zhang et al. 2022, https://arxiv.org/abs/2206.10341",
    level="update",
    goal="harm",
    knowledge=("own", "fellows", "all"),
    options={
        "of": Option(
            kind=str,
            default="mean",
            choices=("mean", "own"),
            summary="mean: against the visible mean; own: the attacker's own, poisoned update",
        ),
        "scale": Option(
            kind=float, default=1.0, low=0.0, high=1e12, summary="length relative to that update"
        ),
        "keep": Option(
            kind=float,
            default=0.95,
            low=0.001,
            high=1.0,
            summary="fraction of coordinates to attack, those of least movement",
        ),
    },
    takes=("own", "scene"),
    function=neurotoxin,
)
