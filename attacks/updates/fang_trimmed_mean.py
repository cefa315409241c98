"""Fang's attack on trimmed mean and median: values just beyond the extreme honest ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attacks.attack import Attack, Option
from attacks.noise import need_generator, uniform
from attacks.statistics import mean
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor

_TWO = 2  # no standard deviation of one
_NEAR, _FAR = 3.0, 4.0  # deviations, where the extremes are not seen


def fang_trimmed_mean(
    honest: Tensor,
    *,
    num_attackers: int,
    generator: torch.Generator | None,
    b: float = 2.0,
    num_clients: int | None = None,
) -> Tensor:
    """Send, per coordinate, a value a little beyond the honest extreme against the mean's sign.

    Where the honest mean falls (is negative) that is above the greatest value: uniform between
    max and ``b * max`` if max > 0, between max and ``max / b`` if not. Where it rises, below the
    least: between ``min / b`` and min if min > 0, between ``b * min`` and min if not. Each attacker
    draws for itself. The attackers' values are trimmed first, and with them as many honest ones of
    the other side. Hurts trimmed mean and median.

    If the attackers see only each other (``num_clients`` is more than the visible), they guess the
    extremes: uniform in ``mu + [3, 4] * sigma`` where the mean falls, in ``mu - [3, 4] * sigma``
    where it rises.

    Readings: the paper works on weights, this on differences from the anchor, and so the
    multiples are of these. A mean of exactly zero counts as rising. Sigma has ddof 1.

    Args:
        honest: The updates the attackers see, shape (h, d); h >= 2 if they see only each other.
        num_attackers: How many rows to craft.
        generator: Source of the values; required.
        b: How far beyond, as a factor, at least 1.
        num_clients: n. By default h + num_attackers: all honest updates are seen.

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``.

    Raises:
        ValueError: If ``generator`` is missing, ``num_clients`` is less than the visible and the
            attackers, a deviation is needed of one update, or a view is malformed.

    Source:
        Fang, Cao, Jia, Gong 2020, Section 4.3, https://arxiv.org/abs/1911.11815
    """
    check_view(honest, num_attackers=num_attackers)
    need_generator("fang_trimmed_mean", generator)
    n = len(honest) + num_attackers if num_clients is None else num_clients
    if n < len(honest) + num_attackers:
        raise ValueError(
            "fang_trimmed_mean needs num_clients >= the visible updates and the attackers: got "
            f"{len(honest)} visible, {num_attackers} attackers, num_clients {n}; count them all"
        )
    seen = n == len(honest) + num_attackers
    near, far = _beyond_extremes(honest, b) if seen else _beyond_deviations(honest)
    shape = (num_attackers, honest.shape[1])
    share = uniform("fang_trimmed_mean", shape, generator=generator, like=honest)
    return (near + share * (far - near)).to(honest.dtype)


def _beyond_extremes(honest: Tensor, b: float) -> tuple[Tensor, Tensor]:
    """The honest extreme against the mean's sign and the farthest value sent, both (d,) float64."""
    rows = honest.double()
    falls = mean(honest) < 0
    near = torch.where(falls, rows.max(dim=0).values, rows.min(dim=0).values)
    # away from zero the value grows b-fold, towards zero it shrinks b-fold
    grows = (near > 0) == falls
    return near, torch.where(grows, near * b, near / b)


def _beyond_deviations(honest: Tensor) -> tuple[Tensor, Tensor]:
    if len(honest) < _TWO:
        raise ValueError(
            "fang_trimmed_mean needs >= 2 visible updates for a standard deviation: "
            f"got {len(honest)}; widen what the attackers see"
        )
    mu, sigma = mean(honest), honest.double().std(dim=0, correction=1)
    up = torch.where(mu < 0, sigma, -sigma)
    return mu + _NEAR * up, mu + _FAR * up


ATTACK = Attack(
    name="fang_trimmed_mean",
    summary="per coordinate a value just beyond the honest extreme against the mean's sign",
    source="Fang, Cao, Jia, Gong 2020, https://arxiv.org/abs/1911.11815",
    level="update",
    goal="harm",
    knowledge=("fellows", "all"),
    options={
        "b": Option(
            kind=float, default=2.0, low=1.0, high=1e12, summary="how far beyond, as a factor"
        ),
        "num_clients": Option(
            kind=int,
            default=None,
            low=2,
            high=1e9,
            summary="clients in all; None is visible + attackers",
        ),
    },
    takes=("generator",),
    function=fang_trimmed_mean,
)
