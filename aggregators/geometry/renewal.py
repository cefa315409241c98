"""Renewal of the anchor's gauge after a step on factors: A keeps its scale and its condition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from aggregators.engine.rows import one_thread
from aggregators.geometry.layout import Factors, check_row, write

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Renewed:
    """A row in another gauge, with the change of gauge that led there.

    Attributes:
        row: The row, shape (d,): the same products.
        turns: For each module S and S⁻¹, (r, r) in float64; None where nothing had to be turned.
        factors: The row's description.
    """

    row: Tensor
    turns: tuple[tuple[Tensor, Tensor] | None, ...]
    factors: Factors

    def turn(self, delta: Tensor) -> Tensor:
        """Write a change of the old row, such as a momentum, as one of the renewed row: (d,)."""
        turned = delta.clone()
        for module, pair in zip(self.factors.modules, self.turns, strict=True):
            if pair is not None:
                db, da = module.moves(delta)
                assert db is not None
                assert da is not None
                write(turned, module, db @ pair[0], pair[1] @ da)
        return turned


def renew(row: Tensor, anchor: Tensor, factors: Factors) -> Renewed:
    """Write a row's products with the A that is nearest to the anchor's and has its A Aᵀ.

    ``align`` brings each client's A to A Π, the projection on the client's own row space: none can
    make it larger, but the mean of such A is shorter than A by the square of the cosine between
    the row spaces, and B longer by as much. Round after round A would vanish, and steps of a fixed
    size would turn it ever further: in the quickstart nine of ten honest clients stood beyond the
    bounds of ``align`` by the fifth round.

    Args:
        row: The new factors (not a delta), shape (d,).
        anchor: The factors before the step.
        factors: The description of both. Modules with one factor fixed have no gauge.

    Returns:
        The renewed row and the way there. A module whose A did not move comes back bit for bit, as
        does one whose A has lost a direction: there is no way to renew it.
    """
    check_row(row, factors, "the row")
    check_row(anchor, factors, "the anchor")
    renewed = row.detach().clone()
    turns: list[tuple[Tensor, Tensor] | None] = []
    with one_thread():
        for module in factors.modules:
            b, a = module.factors(row)
            before = module.factors(anchor)[1]
            turn = None
            if module.a is not None and module.b is not None and not torch.equal(a, before):
                turn = _turn(a, before)
            if turn is not None:
                write(renewed, module, b @ turn[0], turn[1] @ a)
            turns.append(turn)
    return Renewed(renewed, tuple(turns), factors)


def _turn(a: Tensor, before: Tensor) -> tuple[Tensor, Tensor] | None:
    """Find S and S⁻¹ such that S⁻¹ a is nearest to ``before`` and has its Gram matrix."""
    basis, triangle = torch.linalg.qr(a.T)
    spread = torch.linalg.svdvals(triangle)
    if spread[-1] <= 1e-10 * spread[0]:
        return None
    values, vectors = torch.linalg.eigh(before @ before.T)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    u, _, vh = torch.linalg.svd(root @ before @ basis)
    inverse = torch.linalg.solve_triangular(triangle.T, root @ (u @ vh), upper=False, left=False)
    return torch.linalg.inv(inverse), inverse
