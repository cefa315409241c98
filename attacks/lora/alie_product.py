"""ALIE for a server that measures distances between products."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attacks.attack import Attack, Option
from attacks.lora.columns import adapter, need_rows
from attacks.lora.factoring import STRETCH, factor
from attacks.scene import Scene
from attacks.statistics import mean, repeat
from attacks.updates.alie import z_max
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor

_FEWEST = 3


def alie_product(
    honest: Tensor,
    *,
    num_attackers: int,
    scene: Scene | None = None,
    z: float | None = None,
    num_clients: int | None = None,
    max_stretch: float = 2.7,
) -> Tensor:
    """Send factors of ``mu - z * sigma``, the spread being that of the products.

    Per module the changes P_i = s ((B + dB_i)(A + dA_i) - B A) are formed dense, mu and sigma
    (ddof 1) taken entry by entry, and s B A + mu - z sigma is brought to rank r and written with
    the A nearest to the anchor's (``factoring.factor``), so that a server that aligns gauges finds
    nothing to align. Sign and z as in ``alie``.

    The cut to rank r is no detail. sigma is a matrix of positive entries, of full rank but with
    much of its energy in its first singular direction, and only as much of it is sent as fits into
    r directions beside the honest change.

    Memory is d_out * d_in * h float64 values, one module at a time; time is a dense SVD each.

    Args:
        honest: The updates the attackers see, shape (h, d) with h >= 2, floating point.
        num_attackers: How many rows to craft; f in ``z_max``.
        scene: With ``factors`` and ``anchor``.
        z: Deviation in standard deviations; by default ``z_max(num_clients, num_attackers)``,
            which is 0 at 2 attackers of 10.
        num_clients: n in ``z_max``, not looked at when ``z`` is given; by default
            h + num_attackers.
        max_stretch: How far A's row space may turn from the anchor's, as 1 / cos of the largest
            angle. The server refuses beyond a bound.

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``, all the same;
        plain columns at the honest mean.

    Raises:
        ValueError: If fewer than two updates are visible, a view is malformed, z is to be worked
            out and ``z_max`` is undefined, the scene lacks the factors or the anchor, a module has
            one factor alone, or the anchor's A has not full rank.

    Source:
        Baruch, Baruch, Goldberg 2019, https://arxiv.org/abs/1902.06156, on products instead of
        coordinates: fedtune's adaptive form.
    """
    check_view(honest, num_attackers=num_attackers)
    known = adapter("alie_product", scene, honest)
    need_rows("alie_product", honest)
    if z is None:
        n = len(honest) + num_attackers if num_clients is None else num_clients
        z = z_max(n, num_attackers)
    rows, crafted = honest.double(), mean(honest)
    rounding = torch.finfo(honest.dtype).eps
    for block in known.blocks:
        changes = block.changes(rows, known.anchor)
        target = changes.mean(dim=0) - z * changes.std(dim=0, correction=1)
        b, a = block.views(known.anchor)
        near = factor(
            block.product(known.anchor) + target,
            a,
            scale=block.scale,
            max_stretch=max_stretch,
            rounding=rounding,
        )
        block.write(crafted, near[0] - b, near[1] - a)
    return repeat(crafted, like=honest, times=num_attackers)


ATTACK = Attack(
    name="alie_product",
    summary="alie on the products BA, factored back in the anchor's gauge",
    source="Baruch, Baruch, Goldberg 2019, on products, https://arxiv.org/abs/1902.06156",
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
            low=_FEWEST,
            high=1e9,
            summary="n in z_max; None is visible + attackers",
        ),
        "max_stretch": STRETCH,
    },
    takes=("scene",),
    needs=("factors",),
    function=alie_product,
)
