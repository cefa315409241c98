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


_SURE = 1e-5  # of |left| |right|: a Gram matrix knows a singular value above it to eleven digits


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """Leading singular vectors in columns, (d_out, m) and (d_in, m), and all values, descending.

    The signs are fixed: the entry of largest size of each right vector is positive, the first of
    equals.
    """

    left: Tensor
    values: Tensor
    right: Tensor

    def pair(self, start: int, stop: int | None = None) -> Pair:
        """The matrix of the singular values start to stop: (U S, Vᵀ)."""
        kept = slice(start, stop)
        values = self.values[: self.left.shape[1]]
        return self.left[:, kept] * values[kept], self.right[:, kept].T

    def energy(self, start: int = 0) -> float:
        """The sum of the squared singular values from ``start`` on."""
        return float(self.values[start:].square().sum())


def spectrum(left: Tensor, right: Tensor, most: int | None = None) -> Spectrum:
    """Decompose left @ right, (d_out, q) by (q, d_in), without forming it.

    With rightᵀ = Q R the squares of the singular values are the eigenvalues of R leftᵀleft Rᵀ, so
    that one side costs a triangle, the other a Gram matrix, and neither an orthonormal basis. A
    value below 1e-5 of the sides' norms would be the rounding of its square: where one of those
    asked for is, or all are asked for, both sides are brought to orthonormal bases instead, and the
    small core is decomposed itself.

    Args:
        left: Shape (d_out, q), float64.
        right: Shape (q, d_in), float64.
        most: How many singular vectors are asked for; None for all.
    """
    if right.numel() == 0 or left.numel() == 0:
        return Spectrum(left[:, :0], left.new_zeros(0), right[:0].T)
    if most and most < left.shape[1] <= min(len(left), right.shape[1]):
        found = _by_gram(left, right, most)
        if found is not None:
            return found
    outer, core_left = torch.linalg.qr(left)
    inner, core_right = torch.linalg.qr(right.T)
    u, values, vh = torch.linalg.svd(core_left @ core_right.T, full_matrices=False)
    u, v = u[:, :most], vh[:most].T
    return _signed(outer @ u, values, inner @ v)


def _by_gram(left: Tensor, right: Tensor, most: int) -> Spectrum | None:
    """The leading triples, or None where a Gram matrix does not know the last of them."""
    if len(left) < right.shape[1]:  # the triangle of the shorter side is cheaper
        turned = _by_gram(right.T, left.T, most)
        return turned and _signed(turned.right, turned.values, turned.left)
    core = torch.linalg.qr(right.T, mode="r").R.T
    gram = left.T @ left
    squares, vectors = torch.linalg.eigh(core.T @ gram @ core)
    values = squares.clamp(min=0).sqrt().flip(0)
    if values[most - 1] <= _SURE * gram.trace().sqrt() * core.norm():
        return None
    leading = core @ vectors[:, -most:].flip(1) / values[:most]
    return _signed(left @ leading, values, right.T @ (gram @ leading) / values[:most])


def _signed(left: Tensor, values: Tensor, right: Tensor) -> Spectrum:
    peaks = right.gather(0, right.abs().argmax(dim=0, keepdim=True))
    signs = torch.where(peaks < 0, -1.0, 1.0).to(right.dtype)
    return Spectrum(left * signs, values, right * signs)


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
            found = spectrum(*point.pair(k), rank)
            tails.append(found.energy(rank))
            totals.append(found.energy())
            kept.append(found.pair(0, rank))
    total = math.fsum(totals)
    return LowRank(tuple(kept), point.plain), math.fsum(tails) / total if total > 0 else 0.0
