"""Copy cat: a copy of another client's update."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attacks.attack import Attack, Option
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor


def copy_cat(honest: Tensor, *, num_attackers: int, which: int = 0) -> Tensor:
    """Send the update of a visible client bit for bit, the same from every attacker.

    A share of the aggregate for no work. Rules that reward neighbours reward it: with f copies
    the copied client has f neighbours at distance zero, and Krum tends to pick it. A server that
    compares rows, or clients that commit to a hash before they reveal, stop it.

    Args:
        honest: The updates the attackers see, shape (h, d), floating point.
        num_attackers: How many rows to craft.
        which: Row of ``honest`` that is copied, from 0.

    Returns:
        The rows, shape (num_attackers, d), dtype and device of ``honest``.

    Raises:
        ValueError: If there is no such row or a view is malformed.

    Source:
        After the free riders of Lin, Du, Liu 2019, https://arxiv.org/abs/1911.12560; the copy of
        another client's row is defined here.
    """
    check_view(honest, num_attackers=num_attackers)
    if not 0 <= which < len(honest):
        raise ValueError(
            f"copy_cat needs which in [0, {len(honest) - 1}], a visible row: got {which}; "
            "lower which or widen what the attackers see"
        )
    return honest[which].detach().repeat(num_attackers, 1)


ATTACK = Attack(
    name="copy_cat",
    summary="the update of another client, bit for bit",
    source="after the free riders of Lin, Du, Liu 2019, https://arxiv.org/abs/1911.12560",
    level="update",
    goal="shirk",
    knowledge=("fellows", "all"),
    options={
        "which": Option(
            kind=int, default=0, low=0, high=1e9, summary="visible client that is copied, from 0"
        ),
    },
    function=copy_cat,
)
