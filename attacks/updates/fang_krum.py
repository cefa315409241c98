"""Fang's attack on Krum: the longest step against the honest signs that Krum still picks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from attacks.attack import Attack, Option
from attacks.noise import need_generator, normal, uniform
from attacks.statistics import mean
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor

_HALVINGS = 17  # 2^-17 = 7.6e-6: the paper's threshold of 1e-5, here relative to the bound
_FEWEST = 3  # Krum looks at h - 2 neighbours


def fang_krum(
    honest: Tensor,
    *,
    num_attackers: int,
    generator: torch.Generator | None,
    epsilon: float = 0.01,
    num_clients: int | None = None,
) -> Tensor:
    """Send ``-lambda * sign(mu)``, with supporting rows that make Krum pick it.

    Lambda starts at the bound of the paper's Theorem 1 and is halved until a Krum that the
    attackers run themselves, on the visible and the crafted rows, picks a crafted one (ties go to
    the honest). The other attackers send points drawn uniformly from the ball about the first row,
    of radius ``epsilon`` times its norm. Updates are differences from the anchor, so the
    paper's w_Re is zero here. If no lambda works within 17 halvings, where the paper's search ends,
    the last one is sent: a step all but zero, the nearest to honest that this direction has.

    If the attackers see only each other (``num_clients`` is more than the visible), they take the
    visible rows for the honest ones and try 1, 2, ... crafted rows among them until one lambda
    works, as in the paper's partial knowledge; then all attackers send. Hurts Krum, other rules
    little.

    Readings: threshold and radius are relative, the paper's are absolute (1e-5, 0.01) and mean
    nothing at another size of updates. Krum here is the paper's, squared distances to the n-f-2
    nearest others with f the crafted count.

    Args:
        honest: The updates the attackers see, shape (h, d) with h >= 3.
        num_attackers: How many rows to craft.
        generator: Source of the supporters; not looked at with one attacker or epsilon 0.
        epsilon: Radius of the supporters' ball, relative to the first row's norm.
        num_clients: n. By default h + num_attackers: all honest updates are seen.

    Returns:
        The crafted rows, the one for Krum to pick first, shape (num_attackers, d), dtype and
        device of ``honest``.

    Raises:
        ValueError: If fewer than three updates are visible, all honest ones are visible and fewer
            than num_attackers + 2, ``num_clients`` is less than the visible and the attackers,
            ``generator`` is missing, or a view is malformed.

    Source:
        Fang, Cao, Jia, Gong 2020, Section 4.2, https://arxiv.org/abs/1911.11815
    """
    check_view(honest, num_attackers=num_attackers)
    counts = _counts_to_try(len(honest), num_attackers, num_clients)
    against = -mean(honest).sign()
    ball = _ball(against, num_attackers - 1, epsilon=epsilon, generator=generator)
    shape = torch.cat([against[None], against + ball])
    for crafted in counts:
        bound = _bound(honest, crafted)
        for halving in range(_HALVINGS + 1):
            rows = (bound * 2.0**-halving * shape).to(honest.dtype)
            if _krum_picks_crafted(honest, rows[:crafted]):
                return rows
    return rows


def _counts_to_try(h: int, attackers: int, num_clients: int | None) -> range:
    """Return the counts of crafted rows to try the attackers' own Krum with, in order."""
    n = h + attackers if num_clients is None else num_clients
    if h < _FEWEST or n < h + attackers:
        raise ValueError(
            "fang_krum needs >= 3 visible updates, and num_clients >= those and the attackers: "
            f"got {h} visible, {attackers} attackers, num_clients {n}; widen what the attackers see"
        )
    if n > h + attackers:
        return range(1, min(attackers, h - 2) + 1)
    if h < attackers + 2:
        raise ValueError(
            "fang_krum needs >= num_attackers + 2 honest updates, as Krum itself does: "
            f"got {h} of {n} clients; use fewer attackers, or num_clients if more are honest"
        )
    return range(attackers, attackers + 1)


def _ball(
    centre: Tensor, count: int, *, epsilon: float, generator: torch.Generator | None
) -> Tensor:
    """Offsets drawn uniformly from the ball of radius ``epsilon * ||centre||``, (count, d)."""
    d = len(centre)
    if count == 0 or epsilon == 0:
        return centre.new_zeros(count, d)
    seeded = need_generator("fang_krum", generator, instead="set epsilon=0")
    towards = normal("fang_krum", (count, d), generator=seeded, like=centre)
    radius = uniform("fang_krum", (count, 1), generator=seeded, like=centre).pow(1 / d)
    drawn = towards / towards.norm(dim=1, keepdim=True) * radius
    reach: Tensor = epsilon * centre.norm() * drawn
    return reach


def _bound(honest: Tensor, crafted: int) -> float:
    """Theorem 1: the lambda beyond which Krum, of h honest rows and these, picks none of these."""
    h, d = honest.shape
    rows = honest.double()
    apart = _squared_distances(rows, rows).sort(dim=1).values
    # column 0 is the row itself; the h - 2 nearest others follow
    least = float(apart[:, 1 : h - 1].sum(dim=1).min())
    reach = float(rows.norm(dim=1).max())
    return math.sqrt(least / ((h - crafted - 1) * d)) + reach / math.sqrt(d)


def _krum_picks_crafted(honest: Tensor, crafted: Tensor) -> bool:
    """Whether Krum of n = h + k rows and f = k, in float64, selects one of the k crafted."""
    if not bool(torch.isfinite(crafted).all()):
        return False
    rows = torch.cat([honest, crafted]).double()
    apart = _squared_distances(rows, rows).fill_diagonal_(torch.inf)
    scores = apart.sort(dim=1).values[:, : len(honest) - 2].sum(dim=1)
    return bool(scores[len(honest) :].min() < scores[: len(honest)].min())


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()


ATTACK = Attack(
    name="fang_krum",
    summary="the longest step against the honest signs that Krum still picks",
    source="Fang, Cao, Jia, Gong 2020, https://arxiv.org/abs/1911.11815",
    level="update",
    goal="harm",
    knowledge=("fellows", "all"),
    options={
        "epsilon": Option(
            kind=float,
            default=0.01,
            low=0.0,
            high=1.0,
            summary="radius of the supporters about the first row, relative to its norm",
        ),
        "num_clients": Option(
            kind=int,
            default=None,
            low=_FEWEST,
            high=1e9,
            summary="clients in all; None is visible + attackers",
        ),
    },
    takes=("generator",),
    function=fang_krum,
)
