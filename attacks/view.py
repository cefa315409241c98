"""Checks on the updates that an attacker sees and on the rows that it sends."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def check_view(honest: Tensor, *, num_attackers: int, own: Tensor | None = None) -> None:
    """Refuse rows that no attack can be computed from.

    Args:
        honest: The updates the attackers see, shape (h, d).
        num_attackers: How many attackers there are, a count.
        own: What each attacker would have sent honestly, shape (num_attackers, d).

    Raises:
        ValueError: If a shape, a dtype, a device or a count is wrong, or a value is not finite.
    """
    if isinstance(num_attackers, bool) or not isinstance(num_attackers, int) or num_attackers < 1:
        raise ValueError(f"an attack needs num_attackers >= 1, a count: got {num_attackers!r}")
    _check_rows("honest", honest)
    if own is None:
        return
    _check_rows("own", own)
    need = (num_attackers, honest.shape[1])
    if tuple(own.shape) != need:
        raise ValueError(f"own needs shape (num_attackers, d) = {need}: got {tuple(own.shape)}")
    if (own.dtype, own.device) != (honest.dtype, honest.device):
        raise ValueError(
            f"own needs the dtype and device of honest, {honest.dtype} on {honest.device}: "
            f"got {own.dtype} on {own.device}"
        )


def _check_rows(name: str, rows: Tensor) -> None:
    if not isinstance(rows, torch.Tensor) or rows.ndim != 2 or 0 in rows.shape:
        got = tuple(rows.shape) if isinstance(rows, torch.Tensor) else type(rows).__name__
        raise ValueError(
            f"{name} needs a tensor of shape (clients, d), neither of them 0: got {got}"
        )
    if not rows.is_floating_point():
        raise ValueError(f"{name} needs a floating-point dtype: got {rows.dtype}")
    bad = (~torch.isfinite(rows)).any(dim=1).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"{name} needs finite values: got NaN or infinity in rows {bad}; drop them"
        )


def check_crafted(name: str, rows: Tensor) -> Tensor:
    """Return ``rows``, refused when the attack's own numbers left the range of the dtype."""
    if not bool(torch.isfinite(rows).all()):
        raise ValueError(
            f"{name} needs rows that fit {rows.dtype}: got an overflow; "
            "lower the attack's options or craft in a wider dtype"
        )
    return rows


def check_harm(name: str, moved: float, *, at: str) -> float:
    """Return a distance that ``scene.defence`` gave, refused if it is none.

    Args:
        name: The caller, for the message.
        moved: The distance.
        at: The crafted row it is of, for the message.

    Raises:
        ValueError: If it is negative, NaN or infinite: a search for the greatest would be led
            astray.
    """
    if not (math.isfinite(moved) and moved >= 0):
        raise ValueError(
            f"{name} needs a scene.defence that returns a finite distance >= 0: got {moved} at "
            f"{at}; return 0 for rows that the server refuses"
        )
    return moved
