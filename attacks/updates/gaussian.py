"""Gaussian noise: send nothing but noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attacks.attack import Attack, Option
from attacks.noise import normal
from attacks.statistics import rms
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor


def gaussian(
    honest: Tensor,
    *,
    num_attackers: int,
    generator: torch.Generator | None,
    std: float = 10.0,
    unit: str = "rms",
) -> Tensor:
    """Send independent draws of N(0, s^2 I), one for each attacker.

    ``s = std * RMS coordinate of honest`` by default, so that the same recipe means the same at
    LoRA-sized and at gradient-sized updates; ``s = std`` in absolute units. With std 1 in RMS
    units the noise is about as long as an honest update, with the default ten times that. Needs
    no knowledge but a scale. Hurts the mean; any rule with a breakdown point holds. All-zero
    updates have scale 0 and so draw zeros.

    The draw is made in float64 on the generator's device, then moved: a CPU generator gives the
    same noise wherever the updates live.

    Args:
        honest: The updates the attackers see, shape (h, d), floating point.
        num_attackers: How many rows to craft.
        generator: Source of the noise; required.
        std: Standard deviation of a coordinate, in ``unit``.
        unit: "rms" (multiples of the RMS coordinate of ``honest``) or "absolute".

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``.

    Raises:
        ValueError: If ``generator`` is missing, ``unit`` is unknown or a view is malformed.

    Source:
        Blanchard et al. 2017, Gaussian attack, https://arxiv.org/abs/1703.02757
    """
    check_view(honest, num_attackers=num_attackers)
    if unit not in ("rms", "absolute"):
        raise ValueError(f"gaussian.unit needs 'rms' or 'absolute': got {unit!r}")
    shape = (num_attackers, honest.shape[1])
    noise = normal("gaussian", shape, generator=generator, like=honest)
    scale = std * rms(honest) if unit == "rms" else std
    return (scale * noise).to(honest.dtype)


ATTACK = Attack(
    name="gaussian",
    summary="noise instead of an update",
    source="Blanchard et al. 2017, https://arxiv.org/abs/1703.02757",
    level="update",
    goal="harm",
    knowledge=("own", "fellows", "all"),
    options={
        "std": Option(
            kind=float, default=10.0, low=0.0, high=1e12, summary="standard deviation, in unit"
        ),
        "unit": Option(
            kind=str,
            default="rms",
            choices=("rms", "absolute"),
            summary="rms: multiples of the visible updates' RMS coordinate",
        ),
    },
    takes=("generator",),
    function=gaussian,
)
