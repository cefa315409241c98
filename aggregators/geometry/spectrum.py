"""Singular values of a low-rank matrix, from the QR of its two sides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from aggregators.engine.rows import one_thread
from aggregators.geometry.layout import LowRank, Pair, Point

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """Singular vectors in columns, (d_out, k) and (d_in, k), and values (k,), descending.

    The signs are fixed: the entry of largest size of each right vector is positive, the first of
    equals.
    """

    left: Tensor
    values: Tensor
    right: Tensor

    def pair(self, start: int, stop: int | None = None) -> Pair:
        """The matrix of the singular values start to stop: (U S, Vᵀ)."""
        kept = slice(start, stop)
        return self.left[:, kept] * self.values[kept], self.right[:, kept].T


def spectrum(left: Tensor, right: Tensor) -> Spectrum:
    """Decompose left @ right by QR of each side and SVD of the small core."""
    if right.numel() == 0:
        return Spectrum(left, left.new_zeros(left.shape[1]), right.T)
    outer, core_left = torch.linalg.qr(left)
    inner, core_right = torch.linalg.qr(right.T)
    u, values, vh = torch.linalg.svd(core_left @ core_right.T, full_matrices=False)
    found_left, found_right = outer @ u, inner @ vh.T
    peaks = found_right.gather(0, found_right.abs().argmax(dim=0, keepdim=True))
    signs = torch.where(peaks < 0, -1.0, 1.0).to(right.dtype)
    return Spectrum(found_left * signs, values, found_right * signs)


def truncate(point: Point, rank: int) -> tuple[LowRank, float]:
    """Find the best approximation of a rank, module by module; plain columns stay.

    For momentum and residuals: their rank would otherwise grow with each round.

    Args:
        point: Any point.
        rank: Most rank per module, at least 0.

    Returns:
        The point, left = U S and right = Vᵀ, and the share of its squared norm that was cut off,
        over all modules; 0 of a zero point.

    Raises:
        ValueError: If rank < 0.
    """
    if rank < 0:
        raise ValueError(f"truncate needs rank >= 0: got {rank}; 0 drops every module's change")
    kept: list[Pair] = []
    tails, totals = [0.0], [0.0]
    with one_thread():
        for k in range(len(point)):
            found = spectrum(*point.pair(k))
            tails.append(float(found.values[rank:].square().sum()))
            totals.append(float(found.values.square().sum()))
            kept.append(found.pair(0, rank))
    total = math.fsum(totals)
    return LowRank(tuple(kept), point.plain), math.fsum(tails) / total if total > 0 else 0.0
