"""From a dense product back to (B, A) of rank r, in the gauge a server would choose."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attacks.attack import Option

if TYPE_CHECKING:
    from torch import Tensor

STRETCH = Option(
    kind=float,
    default=2.7,
    low=1.0,
    high=1e6,
    summary="bound on 1 / cos of the angle between A's row space and the anchor's",
)


def factor(
    target: Tensor, a: Tensor, *, scale: float, max_stretch: float, rounding: float
) -> tuple[Tensor, Tensor]:
    """Write a product as factors with the A that fits the anchor's best by least squares.

    The row space is that of the best approximation of rank r (the leading right singular vectors),
    leaned towards A's where it lies further off than ``max_stretch``: a server that brings clients
    to the anchor's gauge refuses row spaces too far from its own, whatever the gauge. Singular
    values below ``rounding`` of the largest are nothing, and A's own directions stand in for them.

    Args:
        target: s B' A' as it should be, (d_out, d_in), float64.
        a: The anchor's A, (r, d_in), float64.
        scale: s.
        max_stretch: Largest 1 / cos of a principal angle, at least 1.
        rounding: Relative precision of the row to be written.

    Returns:
        (B', A'), (d_out, r) and (r, d_in), float64: s B' A' is the target projected on the row
        space.

    Raises:
        ValueError: If A has not full rank: nothing is near it.
    """
    rank = len(a)
    _, values, vh = torch.linalg.svd(target, full_matrices=False)
    kept = int((values[:rank] > rounding * values[:1]).sum())
    basis = lean(_continued(vh[:kept].T, a), a, max_stretch)
    return in_row_space(target, basis, a, scale)


def in_row_space(target: Tensor, basis: Tensor, a: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Write the target's projection on a row space, basis (d_in, r), as B' (A W Wᵀ).

    Raises:
        ValueError: If A has not full rank.
    """
    spread = torch.linalg.svdvals(a)
    if a.shape[0] > a.shape[1] or spread[-1] <= 1e-6 * spread[0]:
        raise ValueError(
            f"an attack in product geometry needs an anchor whose A has full rank: got "
            f"{tuple(a.shape)} with singular values {float(spread[0]):.3g} to "
            f"{float(spread[-1]):.3g}; start from an A of full rank"
        )
    m = a @ basis
    return torch.linalg.solve(m, target @ basis, left=False) / scale, m @ basis.T


def lean(basis: Tensor, a: Tensor, max_stretch: float) -> Tensor:
    """Turn a row space towards A's until no principal angle has 1 / cos over ``max_stretch``.

    Each principal vector that lies too far off is turned in the plane that it spans with its
    partner in A's row space, the shortest way; the others stay.

    Args:
        basis: Orthonormal columns, (d_in, k) with k <= r.
        a: The anchor's A, (r, d_in).
        max_stretch: At least 1; at 1 the result is A's own row space.

    Returns:
        Orthonormal columns, (d_in, k).
    """
    own = torch.linalg.qr(a.T).Q
    x, cosines, yh = torch.linalg.svd(own.T @ basis, full_matrices=False)
    partners, vectors = own @ x, basis @ yh.T
    least = 1.0 / max_stretch
    rest = vectors - partners * cosines
    # where the cosine is 1 the rest is rounding, and is not used
    rest = rest / rest.norm(dim=0).clamp(min=torch.finfo(rest.dtype).tiny)
    turned = least * partners + (1.0 - least**2) ** 0.5 * rest
    return torch.where(cosines < least, turned, vectors)


def _continued(right: Tensor, a: Tensor) -> Tensor:
    """Complete (d_in, k) orthonormal columns to r by what they leave of A's row space."""
    missing = len(a) - right.shape[1]
    if missing == 0:
        return right
    rest = a - (a @ right) @ right.T
    found = torch.linalg.svd(rest, full_matrices=False).Vh[:missing].T
    return torch.cat([right, torch.linalg.qr(found - right @ (right.T @ found)).Q], dim=1)
