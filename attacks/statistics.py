"""The few statistics that attacks share, in float64 whatever the updates are in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def mean(rows: Tensor) -> Tensor:
    """Column means of (h, d) rows, shape (d,), float64."""
    return rows.mean(dim=0, dtype=torch.float64)


def rms(rows: Tensor) -> Tensor:
    """Root mean square over all coordinates of all rows, a float64 scalar."""
    return rows.double().square().mean().sqrt()


def repeat(row: Tensor, *, like: Tensor, times: int) -> Tensor:
    """One float64 row, cast to the dtype of ``like``, as ``times`` rows that share no memory."""
    return row.to(like.dtype).repeat(times, 1)
