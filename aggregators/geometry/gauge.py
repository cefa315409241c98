"""Gauges: (B, A) and (B S, S⁻¹ A) are one model. Bring every client to the anchor's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from aggregators.engine.rows import Rows, one_thread
from aggregators.geometry.clients import check_finite, gather
from aggregators.geometry.layout import Columns, Factors, write

if TYPE_CHECKING:
    from torch import Tensor


_CONDITION = 1e3  # of an A, or 1 / cos of an angle: normal equations keep ten digits up to it


class GaugeError(ValueError):
    """Some clients' factors cannot be brought to the anchor's gauge.

    Attributes:
        refused: The row's index and why, for each client to refuse.
    """

    def __init__(self, refused: Mapping[int, str]) -> None:
        self.refused = dict(refused)
        listed = "; ".join(f"row {i}: {why}" for i, why in self.refused.items())
        super().__init__(f"align needs factors near the anchor's: {listed}; refuse these clients")


@dataclass(frozen=True, slots=True, eq=False)
class Aligned:
    """Rows in the anchor's gauge.

    Attributes:
        rows: Deltas, shape (n, d), dtype and device of the rows.
        conditions: The worst condition number of S over the modules, per client, shape (n,). It
            grows with the gauge that the client chose; a factor c on B and 1/c on A leaves it.
        stretches: The worst 1 / cos of the largest angle between the row spaces of A_i and A, per
            client, shape (n,). No gauge changes it.
    """

    rows: Tensor
    conditions: Tensor
    stretches: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Turned:
    """One module of one client in the anchor's gauge: b @ a is the product that it was."""

    b: Tensor
    a: Tensor
    condition: float
    stretch: float


def turn(b: Tensor, a: Tensor, target: Tensor) -> Turned | None:
    """Find S so that A' = S⁻¹ A_i is nearest to the target, and return B' = B_i S with it.

    Least squares: S⁻¹ = A A_iᵀ (A_i A_iᵀ)⁻¹, so A' = A Π with Π the projection on the row space
    of A_i. Under (B_i, A_i) -> (B_i S0, S0⁻¹ A_i) the row space is the same, hence A' is, and B'
    is the only matrix with B' A' = B_i A_i: both are invariant, exactly. With A_iᵀ = Q R it is
    A' = M Qᵀ and B' = B_i Rᵀ M⁻¹ for M = A Q: no normal equations, half the digits of A_i A_iᵀ
    are not lost.

    Args:
        b: B_i, shape (d_out, r), float64.
        a: A_i, shape (r, d_in), float64.
        target: The anchor's A, shape (r, d_in), float64.

    Returns:
        The pair with the condition of S and the stretch, or None where S is singular: A_i has not
        full rank, or a direction of A's row space is orthogonal to all of A_i's.
    """
    q, r = torch.linalg.qr(a.T)
    m = target @ q
    onto, _ = torch.linalg.qr(target.T)
    cosines = torch.linalg.svdvals(onto.T @ q)
    spread = torch.linalg.svdvals(r)
    tiny = 64 * len(a) * torch.finfo(torch.float64).eps
    if spread[-1] <= tiny * spread[0] or torch.linalg.svdvals(m)[-1] <= tiny * target.norm():
        return None
    s = torch.linalg.solve(m, r.T, left=False)
    singular = torch.linalg.svdvals(s)
    return Turned(
        b @ s, m @ q.T, float(singular[0] / singular[-1]), float(1 / cosines[-1].clamp(max=1))
    )


class AnchorGauge:
    """What every client's row is brought to: an anchor, with what is worked out of it once.

    Modules of one shape are turned together, by the normal equations that `turn` is without: they
    lose the square of a condition, and are used for those modules where that leaves ten digits,
    which factors near a drawn A always do. The others are turned one by one.

    Args:
        anchor: The row that all received, shape (d,).
        factors: Its description.

    Raises:
        ValueError: If an A has not full rank: then no client has a gauge.
    """

    def __init__(self, anchor: Tensor, factors: Factors) -> None:
        self.anchor, self.factors = anchor, factors
        shapes: dict[tuple[int, int, int], list[int]] = {}
        with one_thread():
            for k, module in enumerate(factors.modules):
                if module.a is None or module.b is None:
                    continue
                shape = (module.rank, module.d_out, module.d_in)
                if check_full_rank(module.factors(anchor)[1], k) > _CONDITION:
                    shape = (-1 - k, 0, 0)  # alone, and turned without normal equations
                shapes.setdefault(shape, []).append(k)
        self._groups = list(shapes.values())
        self._well = [shape[0] > 0 for shape in shapes]

    def turn(self, row: Tensor) -> tuple[float, float] | int:
        """Overwrite the modules of one delta row; one whose A did not move is left alone.

        Returns:
            The worst condition and stretch, or the number of the first module that has no way.
        """
        worst, lost = [(1.0, 1.0)], []
        with one_thread():
            for group, well in zip(self._groups, self._well, strict=True):
                moved = [k for k in group if bool(_factor(row, self.factors.modules[k].a).any())]
                ill = moved
                if well and moved:
                    bounds, ill = self._turn_together(row, moved)
                    worst.append(bounds)
                for k in ill:
                    turned = self._turn_alone(row, k)
                    if turned is None:
                        lost.append(k)
                    else:
                        worst.append((turned.condition, turned.stretch))
        if lost:
            return min(lost)
        conditions, stretches = zip(*worst, strict=True)
        return max(conditions), max(stretches)

    def _turn_alone(self, row: Tensor, k: int) -> Turned | None:
        module = self.factors.modules[k]
        (b, a), (db, da) = module.factors(self.anchor), module.factors(row)
        turned = turn(b + db, a + da, a)
        if turned is not None:
            write(row, module, turned.b - b, turned.a - a)
        return turned

    def _turn_together(
        self, row: Tensor, ks: Sequence[int]
    ) -> tuple[tuple[float, float], list[int]]:
        """Turn modules of one shape; the worst bounds of those, and who is left to be turned."""
        modules = [self.factors.modules[k] for k in ks]
        target, moves = (
            torch.stack([_factor(x, m.a).view(m.rank, -1) for m in modules]).to(torch.float64)
            for x in (self.anchor, row)
        )
        a = target + moves
        values, vectors = torch.linalg.eigh(a @ a.mT)
        well = values[:, 0] > _CONDITION**-2 * values[:, -1]
        whiten = vectors / values.clamp(min=torch.finfo(values.dtype).tiny).sqrt()[:, None]
        shared = target @ a.mT @ whiten
        root = torch.linalg.cholesky(target @ target.mT)
        cosines = torch.linalg.svdvals(torch.linalg.solve_triangular(root, shared, upper=False))
        well &= cosines[:, -1] > 1 / _CONDITION
        ill = [k for k, is_well in zip(ks, well.tolist(), strict=True) if not is_well]
        if len(ill) == len(ks):
            return (1.0, 1.0), ill
        back = (shared @ whiten.mT)[well]
        singular = torch.linalg.svdvals(back)
        ahead, near = torch.linalg.inv(back), back @ a[well] - target[well]
        kept = [module for module, is_well in zip(modules, well.tolist(), strict=True) if is_well]
        for module, there, new in zip(kept, near, ahead, strict=True):
            b = module.factors(self.anchor)[0]
            write(row, module, (b + module.factors(row)[0]) @ new - b, there)
        stretch = 1 / cosines[well, -1].clamp(max=1)
        return (float((singular[:, 0] / singular[:, -1]).max()), float(stretch.max())), ill


def _factor(row: Tensor, columns: Columns | None) -> Tensor:
    """The columns of a trained factor."""
    assert columns is not None
    return row[slice(*columns)]


def align(
    rows: Rows,
    anchor: Tensor | AnchorGauge,
    factors: Factors,
    *,
    max_condition: float = 1e3,
    max_stretch: float = 3.0,
) -> Aligned:
    """Bring each client's factors to the anchor's gauge; no product changes.

    Only A decides. B = 0 in the first round, where any criterion that looks at B knows nothing;
    and one on both factors, |S⁻¹A_i - A|² + c |B_i S - B|², is quartic in S with local minima and
    no closed form, so nothing could be said of its invariance. An orthogonal S (Procrustes) has a
    closed form but does not undo (100B, A/100).

    A row is float32: of (cB, A/c) the delta A/c - A has an error of 6e-8 |A|, which is a relative
    6e-8 c on A_i. That is damage which the client does to its own product (c = 100: 6e-6 of |BA|),
    a changed update as any other; at c beyond 1e7 A_i reads as 0 and is refused. Where S has
    condition k, rounding of B_i is amplified by up to k in B': the default bound keeps it below
    6e-5 of B'. Stretch is what a gauge cannot hide: B' is up to that many times longer than a B
    with the same product at the anchor's own A, so one row mixed into others could spoil them.

    Args:
        rows: n delta rows of the same description; different ranks have no common gauge.
        anchor: The row that all received, shape (d,), or the gauge of one that is used again.
        factors: Their description. Modules with one factor fixed have no gauge: left as they are.
        max_condition: Largest condition number of S.
        max_stretch: Largest 1 / cos of an angle between the row spaces. A move of A by m times
            its own size, in new directions, is a stretch near sqrt(1 + m²).

    Returns:
        The aligned deltas. A module whose A did not move comes back bit for bit, as plain columns.

    Raises:
        GaugeError: With the clients beyond a bound, by index.
        ValueError: If a row does not fit or is not finite, or the anchor's own A has not full rank:
            then no client has a gauge.
    """
    gauge = anchor if isinstance(anchor, AnchorGauge) else AnchorGauge(anchor, factors)
    check_finite(gather(rows, gauge.anchor, factors))
    aligned = torch.stack([row.detach() for row in rows])
    conditions = torch.ones(len(aligned), dtype=torch.float64)
    stretches = conditions.clone()
    refused: dict[int, str] = {}
    for i, row in enumerate(aligned):
        found = gauge.turn(row)
        if isinstance(found, int):
            refused[i] = f"module {found} has no way to the anchor's gauge"
        else:
            conditions[i], stretches[i] = found
    for i in range(len(aligned)):
        if conditions[i] > max_condition:
            refused.setdefault(i, f"condition {conditions[i]:.3g} of S over {max_condition:g}")
        if stretches[i] > max_stretch:
            refused.setdefault(i, f"stretch {stretches[i]:.3g} over {max_stretch:g}")
    if refused:
        raise GaugeError(dict(sorted(refused.items())))
    return Aligned(aligned, conditions, stretches)


def check_full_rank(a: Tensor, k: int) -> float:
    """Return A's condition, or refuse an A of less than full rank: it can measure no gauge."""
    if a.shape[0] > a.shape[1]:
        raise ValueError(
            f"the anchor's gauge needs a rank of at most d_in: got an A of shape {tuple(a.shape)} "
            f"in module {k}; lower r"
        )
    spread = torch.linalg.svdvals(a)
    if spread[-1] <= 1e-6 * spread[0]:
        raise ValueError(
            f"the anchor's gauge needs an A of full rank: got singular values "
            f"{float(spread[0]):.3g} to {float(spread[-1]):.3g} in module {k}; start from "
            "an A of full rank, or leave this module without an adapter"
        )
    return float(spread[0] / spread[-1])
