"""The farthest row along a direction that still passes for one of the honest updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch

from attacks.attack import Option
from attacks.scene import Scene
from attacks.statistics import mean, repeat
from attacks.view import check_harm, check_view

if TYPE_CHECKING:
    from torch import Tensor

DIRECTION = Option(
    kind=str,
    default="std",
    choices=("unit", "sign", "std", "best"),
    summary=(
        "minus the mean's unit vector (unit), its signs (sign) or the deviations (std); best: of "
        "these the one that moves the server's own rule most, or if the rule is unknown the longest"
    ),
)
_TWO = 2  # between fewer there is no distance to stay within


class Measure(NamedTuple):
    """A bound that the honest updates set on a crafted row.

    Attributes:
        of: From the squared distances of a row to each honest one, shape (h,), to one number.
        step: From the centred honest rows (h, d), a direction (d,) not zero, and the bound: the
            greatest gamma >= 0 at which the row ``mu + gamma * direction`` is within it.
    """

    of: Callable[[Tensor], Tensor]
    step: Callable[[Tensor, Tensor, Tensor], Tensor]


def farthest_rows(
    name: str,
    honest: Tensor,
    *,
    num_attackers: int,
    direction: str,
    measure: Measure,
    scene: Scene | None,
) -> Tensor:
    """Return ``mu + gamma * p``, gamma the greatest at which no honest update is farther out.

    Gamma is the root of a quadratic, not the papers' halving search. Rounding to the dtype of
    ``honest`` can then carry the row out again by an ulp, so gamma shrinks by 2^-52, 2^-51, ... of
    itself until the row as it is sent is within the bound: a loss of 1e-12 in float64, about 1e-6
    in float32, more where the mean is far longer than the spread. Where even the mean is not
    within it (all updates equal up to an ulp), the mean is sent.

    Args:
        name: The attack, for its errors.
        honest: The updates the attackers see, shape (h, d) with h >= 2.
        num_attackers: How many rows to craft.
        direction: One of ``DIRECTION.choices``. Under "best", the one of the three that moves
            ``scene.defence`` most, and without a defence the longest ``gamma * p``; of equals
            the first.
        measure: The quantity to bound by its greatest value at an honest update.
        scene: Used under "best" only.

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``.

    Raises:
        ValueError: If fewer than two updates are visible, ``direction`` is unknown, the
            defence returns a negative, NaN or infinite value, or a view is malformed.
    """
    check_view(honest, num_attackers=num_attackers)
    if direction not in DIRECTION.choices:
        raise ValueError(f"{name}.direction needs {DIRECTION.bounds}: got {direction!r}")
    if len(honest) < _TWO:
        raise ValueError(
            f"{name} needs >= 2 visible updates for a distance: got {len(honest)}; "
            "widen what the attackers see or use sign_flip"
        )
    mu = mean(honest)
    known = _directions(honest, mu)
    tried = list(known.values()) if direction == "best" else [known[direction]]
    bound = _bound(honest.double(), measure)
    reached = [_farthest(honest, mu, p, measure, bound) for p in tried]
    if len(reached) == 1:
        return repeat(reached[0][0], like=honest, times=num_attackers)
    worth = [length for _, length in reached]
    if scene is not None and scene.defence is not None:
        crafted = [repeat(row, like=honest, times=num_attackers) for row, _ in reached]
        worth = [
            check_harm(name, float(scene.defence(rows)), at=f"direction {one}")
            for one, rows in zip(known, crafted, strict=True)
        ]
    # equal up to rounding, as all lengths are under min_sum: the first, on any machine
    best = next(i for i, one in enumerate(worth) if one >= max(worth) * (1 - 1e-9))
    return repeat(reached[best][0], like=honest, times=num_attackers)


def _directions(honest: Tensor, mu: Tensor) -> dict[str, Tensor]:
    """By name, in the order in which ties break; a mean of zero leaves the first two zero."""
    length = mu.norm()
    return {
        "unit": -mu / length if length > 0 else torch.zeros_like(mu),
        "sign": -mu.sign(),
        "std": -honest.double().std(dim=0, correction=1),
    }


def _bound(rows: Tensor, measure: Measure) -> Tensor:
    apart = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square()
    return torch.stack([measure.of(row) for row in apart]).max()


def _farthest(
    honest: Tensor, mu: Tensor, p: Tensor, measure: Measure, bound: Tensor
) -> tuple[Tensor, float]:
    """The row in the dtype of ``honest``, shape (d,), and its distance from mu before rounding."""
    rows = honest.double()
    if not bool(p.any()):
        return mu.to(honest.dtype), 0.0
    gamma = measure.step(rows - mu, p, bound)
    for power in range(52, 0, -1):
        row = (mu + gamma * (1 - 2.0**-power) * p).to(honest.dtype)
        if bool(measure.of((row.double() - rows).square().sum(dim=1)) <= bound):
            return row, float(gamma * p.norm())
    return mu.to(honest.dtype), 0.0
