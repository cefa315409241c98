"""A little is enough (ALIE): a deviation that hides inside the honest spread."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING

from attacks.attack import Attack, Option
from attacks.statistics import mean, repeat
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor

_TOO_FEW = 3  # a majority of 1 or 2 leaves no honest client beyond it to hide behind


def alie(
    honest: Tensor, *, num_attackers: int, z: float | None = None, num_clients: int | None = None
) -> Tensor:
    """Send ``mu - z * sigma`` per coordinate, the same from every attacker.

    mu and sigma are the mean and the standard deviation of the visible updates, with ddof 1
    (h - 1 in the denominator). The sign is minus on every coordinate; some peers use plus, which
    is a negative ``z`` here. Hurts Krum, trimmed mean, median and Bulyan, the more so the
    further apart the honest clients are.

    Few attackers make ``z_max`` small: at 2 of 10 it is 0, and the crafted row is the honest mean,
    which harms nothing and proves no defence. Peers set z to 1.0 or 1.5 then.

    Args:
        honest: The updates the attackers see, shape (h, d) with h >= 2: all honest ones, or those
            that the attackers trained honestly themselves.
        num_attackers: How many rows to craft; f in ``z_max``.
        z: Deviation in standard deviations; by default ``z_max(num_clients, num_attackers)``.
        num_clients: n in ``z_max``, not looked at when ``z`` is given. By default
            h + num_attackers, which is right only if ``honest`` is every honest client. If the
            attackers see only each other, pass the federation's count.

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``.

    Raises:
        ValueError: If fewer than two updates are visible, a view is malformed, or z is to be
            worked out and ``z_max`` is undefined.

    Source:
        Baruch, Baruch, Goldberg 2019, https://arxiv.org/abs/1902.06156
    """
    check_view(honest, num_attackers=num_attackers)
    if len(honest) < 2:
        raise ValueError(
            f"alie needs >= 2 visible updates for a standard deviation: got {len(honest)}; "
            "widen what the attackers see or use sign_flip"
        )
    if z is None:
        n = len(honest) + num_attackers if num_clients is None else num_clients
        z = z_max(n, num_attackers)
    sigma = honest.double().std(dim=0, correction=1)
    return repeat(mean(honest) - z * sigma, like=honest, times=num_attackers)


def z_max(n: int, f: int) -> float:
    """Return the deviation below which enough honest clients lie further out than the attackers.

    With s = floor(n/2) + 1 - f honest supporters to win for a majority,
    ``z_max = Phi^-1((n - f - s) / (n - f))``. It is 0 at f = 1 for odd n and at f = 2 for even
    n, and negative at f = 1 for even n.

    Args:
        n: Clients in all, attackers included.
        f: Attackers among them.

    Returns:
        z_max, which may be zero or negative.

    Raises:
        ValueError: If n < 3, or the attackers are a majority by themselves (s < 1): the quantile is
            undefined.

    Source:
        Baruch, Baruch, Goldberg 2019, https://arxiv.org/abs/1902.06156
    """
    supporters = n // 2 + 1 - f
    if f < 1 or n < _TOO_FEW or supporters < 1:
        raise ValueError(
            f"alie's z_max needs n >= 3 and 1 <= f <= floor(n/2): got n={n}, f={f}; "
            "set z, or num_clients if honest is only a part of the honest clients"
        )
    return NormalDist().inv_cdf((n - f - supporters) / (n - f))


ATTACK = Attack(
    name="alie",
    summary="the mean of the visible updates, less z standard deviations",
    source="Baruch, Baruch, Goldberg 2019, https://arxiv.org/abs/1902.06156",
    level="update",
    goal="harm",
    knowledge=("fellows", "all"),
    options={
        "z": Option(
            kind=float,
            default=None,
            low=-1e12,
            high=1e12,
            summary="standard deviations; None is z_max of the counts",
        ),
        "num_clients": Option(
            kind=int,
            default=None,
            low=_TOO_FEW,
            high=1e9,
            summary="n in z_max; None is visible + attackers",
        ),
    },
    function=alie,
)
