"""The choice of (B, A) for a product: the gauge of the server's own row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from aggregators.geometry.layout import Module, Pair
from aggregators.geometry.spectrum import Spectrum

if TYPE_CHECKING:
    from torch import Tensor

Gauge = Literal["anchor", "balanced"]


def read_out(found: Spectrum, module: Module, a: Tensor, gauge: Gauge, dtype: torch.dtype) -> Pair:
    """Write the leading singular triples of a target as (B', A') of the module's rank.

    ``anchor``: A' has the row space of the best product and the Gram matrix A Aᵀ of the anchor's
    A, and is the nearest such matrix to it: with W an orthonormal basis of that row space in
    columns, A' = (A Aᵀ)^½ Q Wᵀ, Q the polar factor of (A Aᵀ)^½ A W. Neither signs nor order nor
    equal singular values matter, since another basis W turns Q along. B' = target A'⁺, bounded by
    |target| / (s times A's smallest singular value). The plain projection A W Wᵀ would be nearer,
    but shrinks A each round and is singular where a new direction is orthogonal to A.

    ``balanced``: B' = U sqrt(S / s), A' = sqrt(S / s) Vᵀ.

    A direction in which the target has nothing, by the rounding of the row's dtype, gets a zero
    column of B and a row of A that continues the anchor's row space: with both at zero both
    gradients would be zero, and the direction lost for ever.

    Args:
        found: The target s B A + change.
        module: Where it goes; both factors trained.
        a: The anchor's A, shape (rank, d_in), float64.
        gauge: Which.
        dtype: Of the row to write.

    Returns:
        (B', A'), float64.
    """
    floor = torch.finfo(dtype).eps * found.values[:1]
    k = min(int((found.values > floor).sum()), module.rank)
    basis = _continued(found.right[:, :k], a)
    if gauge == "balanced":
        root = (found.values[:k] / module.scale).sqrt()
        b = a.new_zeros(module.d_out, module.rank)
        b[:, :k] = found.left[:, :k] * root
        like_a = a.norm() / module.rank**0.5
        return b, torch.cat([root, like_a.expand(module.rank - k)])[:, None] * basis.T
    left, right = found.pair(0, k)
    values, vectors = torch.linalg.eigh(a @ a.T)
    root = (vectors * values.sqrt()) @ vectors.T
    inverse = (vectors / values.sqrt()) @ vectors.T
    u, _, vh = torch.linalg.svd(root @ a @ basis)
    turned = u @ vh
    return left @ (right @ basis) @ turned.T @ inverse / module.scale, root @ turned @ basis.T


def _continued(right: Tensor, a: Tensor) -> Tensor:
    """Complete k orthonormal columns to r by the strongest directions left in A's row space."""
    k = right.shape[1]
    if k == len(a):
        return right
    rest = a - (a @ right) @ right.T
    directions = torch.linalg.svd(rest, full_matrices=False).Vh[: len(a) - k].T
    directions = torch.linalg.qr(directions - right @ (right.T @ directions)).Q
    return torch.cat([right, directions], dim=1)


def linear_step(module: Module, b: Tensor, a: Tensor, change: Pair) -> Pair | None:
    """Add a change that leaves one factor as it is; None if it moves both.

    Where a factor is fixed, the other takes the least-squares fit of the change: exact if every
    client shared that factor, the best there is if some had another.
    """
    left, right = change
    if module.b is not None and right.shape == a.shape and torch.equal(right, a):
        return b + left / module.scale, a
    if module.a is not None and left.shape == b.shape and torch.equal(left, module.scale * b):
        return b, a + right
    if module.a is None:
        return b + left @ (right @ torch.linalg.pinv(a)) / module.scale, a
    if module.b is None:
        return b, a + (torch.linalg.pinv(b) @ left) @ right / module.scale
    return None
