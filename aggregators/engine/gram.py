"""The Gram engine: one pass over the rows, then everything on an n x n matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from aggregators.engine.pool import Scratch, in_order, one_thread
from aggregators.engine.rows import (
    Rows,
    column_blocks,
    device_of,
    num_columns,
    squared_norms,
    stretches,
)
from aggregators.engine.screening import check_finite

if TYPE_CHECKING:
    from torch import Tensor

# A squared distance is a difference of larger numbers. Below this share of them it is rounding,
# and counts as zero: equal rows are at distance 0, not 1e-8.
_ROUNDING = 1e-14

_SAMPLED_PIECES, _PIECE = 16, 1024
_LINES = 12  # MKL multiplies panels of 12 lines; 24 padded ones take less time than 20
_PANEL = 24


@dataclass(frozen=True, slots=True, eq=False)
class Gram:
    """Inner products of points relative to a reference point, from any geometry.

    The points are the n clients, then any extra points (such as a centre), and last the origin,
    which is what keeps the norms although the products are centred.

    Attributes:
        centred: <p_i - r, p_j - r> for one reference r, shape (p + 1, p + 1), float64, on the CPU.
        num_clients: n, the first n points.

    Raises:
        ValueError: If the matrix is not square, not float64 on the CPU, not finite, or too small.
    """

    centred: Tensor
    num_clients: int

    def __post_init__(self) -> None:
        """Refuse what is no Gram matrix of at least one client and the origin."""
        shape, dtype, device = self.centred.shape, self.centred.dtype, self.centred.device
        square = len(shape) == 2 and shape[0] == shape[1] > self.num_clients >= 1
        if not square or dtype != torch.float64 or device.type != "cpu":
            raise ValueError(
                "Gram needs a square float64 matrix on the CPU over clients, extra points and the "
                f"origin: got {dtype} {tuple(shape)} on {device} for n={self.num_clients}; "
                "see Gram.from_inner_products"
            )
        if not self.centred.isfinite().all():
            raise ValueError("Gram needs finite inner products: got inf or nan; screen the rows")

    @classmethod
    def from_inner_products(cls, products: Tensor, num_clients: int | None = None) -> Gram:
        """Build from plain inner products <p_i, p_j> of shape (p, p): the origin is the reference.

        Loses digits when the rows share a large offset; ``gram`` does not.
        """
        points = len(products)
        centred = torch.zeros(points + 1, points + 1, dtype=torch.float64)
        centred[:points, :points] = products
        return cls(centred, points if num_clients is None else num_clients)

    @classmethod
    def blank(cls, num_clients: int) -> Gram:
        """The Gram of clients that were not looked at: all at the origin."""
        size = num_clients + 1
        return cls(torch.zeros(size, size, dtype=torch.float64), num_clients)

    @property
    def num_extra(self) -> int:
        """How many points stand between the clients and the origin."""
        return len(self.centred) - 1 - self.num_clients

    def squared_distances(self) -> Tensor:
        """Squared distances between the clients, shape (n, n), symmetric, zero diagonal."""
        n = self.num_clients
        squares = self.centred.diagonal()[:n]
        around = squares[:, None] + squares[None, :]
        apart = around - 2 * self.centred[:n, :n]
        return torch.where(apart > _ROUNDING * around, apart, 0.0).fill_diagonal_(0)

    def inner_products(self) -> Tensor:
        """Inner products of the clients about the origin, shape (n, n)."""
        n, origin = self.num_clients, self.centred[-1]
        return self.centred[:n, :n] - origin[:n, None] - origin[None, :n] + origin[-1]

    def norms(self) -> Tensor:
        """The clients' norms: their distances to the origin, shape (n,)."""
        return self.distances_to(self.affine(torch.zeros(len(self.centred) - 1)))

    def affine(self, weights: Tensor) -> Tensor:
        """Extend (..., p) weights by the origin's share, so that they sum to one: (..., p + 1)."""
        weights = weights.to(torch.float64)
        slack = 1 - weights.sum(dim=-1, keepdim=True)
        rounding = 4 * torch.finfo(torch.float64).eps * weights.shape[-1]
        slack = torch.where(slack.abs() > rounding, slack, 0.0)  # the origin may be far away
        return torch.cat([weights, slack], dim=-1)

    def distances_to(self, coefficients: Tensor) -> Tensor:
        """Measure the clients' distances to one affine combination of the points.

        Args:
            coefficients: One per point, the origin included, summing to one, shape (p + 1,).

        Returns:
            Distances, shape (n,). Exactly zero where only rounding is left.
        """
        n, lengths = self.num_clients, self.centred.diagonal().clamp(min=0).sqrt()
        towards = self.centred @ coefficients
        squares = self.centred.diagonal() - 2 * towards + coefficients @ towards
        around = (lengths + coefficients.abs() @ lengths).square()
        return torch.where(squares > _ROUNDING * around, squares, 0.0).sqrt()[:n]

    def length(self, step: Tensor) -> float:
        """Length of a step between two affine combinations; coefficients sum to zero, (p + 1,)."""
        return math.sqrt(max(0.0, float(step @ self.centred @ step)))

    def mixed(self, matrix: Tensor) -> Gram:
        """Return the Gram of the mixed clients; extra points and the origin stay.

        Args:
            matrix: One mixed row per row, over the clients, shape (m, n). A row that does not
                sum to one leaves the rest on the origin, so scaled rows are mixtures too.
        """
        m, n = matrix.shape
        rest = len(self.centred) - n
        full = torch.zeros(m + rest, n + rest, dtype=torch.float64)
        full[:m, :n] = matrix
        full[:m, -1] = self.affine(matrix)[:, -1]
        full[m:, n:] = torch.eye(rest, dtype=torch.float64)
        with one_thread():
            centred = full @ self.centred @ full.T
        return Gram((centred + centred.T) / 2, m)


def gram(rows: Rows, *, extra: Sequence[Tensor] = (), squares: Tensor | None = None) -> Gram:
    """Compute the Gram matrix of the rows, the extra points and the origin.

    Accumulates in float64, relative to a row of about median norm. With a common offset of 1000
    times the spread, float32 ``X @ X.T`` is off by 1.3 and this by 2e-7; a payload of 1e8 as the
    reference would spoil the distances even in float64, so the reference is never an extreme row.

    One pass over the rows: the reference is the row of median norm (the lower one of an even
    count) on a sample of columns. A row that hides a payload between those columns, and so becomes
    the reference, is detected at the end; that costs two passes more.

    Args:
        rows: The n client updates.
        extra: More points of shape (d,), placed after the clients.
        squares: The rows' squared norms, if already known, shape (n,).

    Returns:
        The Gram, on the CPU. The same bits whatever the number of threads.

    Raises:
        ValueError: If a row or an inner product is not finite.
    """
    if squares is None:
        guess = _median_row(squared_norms(rows, within=_sample(rows)))
        centred = _centred(rows, extra, guess)
        if _is_middling(guess, _squares_of(centred)[: len(rows)]):
            return Gram(centred, len(rows))
        squares = squared_norms(rows)
        check_finite(rows, squares)
    return Gram(_centred(rows, extra, _median_row(squares)), len(rows))


def _sample(rows: Rows) -> list[slice]:
    """Choose 16 pieces of 1024 columns, evenly over the columns, or all of them."""
    columns, most = num_columns(rows), _SAMPLED_PIECES * _PIECE
    if columns <= most:
        return [slice(0, columns)]
    starts = [k * (columns - _PIECE) // (_SAMPLED_PIECES - 1) for k in range(_SAMPLED_PIECES)]
    return [slice(start, start + _PIECE) for start in starts]


def _median_row(squares: Tensor) -> int:
    return int(squares.sort(stable=True).indices[(len(squares) - 1) // 2])


def _squares_of(centred: Tensor) -> Tensor:
    """Squared distances of all points to the origin, the last point."""
    return centred.diagonal() - 2 * centred[-1] + centred[-1, -1]


def _is_middling(row: int, squares: Tensor) -> bool:
    """Whether all values are finite and the row's norm is within a factor 4 of the median norm."""
    median = squares[_median_row(squares)]
    near = median / 16 <= squares[row] <= median * 16
    return bool(near) and bool(squares.isfinite().all())


def _centred(rows: Rows, extra: Sequence[Tensor], reference: int) -> Tensor:
    """Sum the inner products of all points less the reference, the origin last: (p + 1, p + 1).

    The reference less itself is zero, so the buffer's line of the reference holds the origin.
    """
    n, points, device = len(rows), len(rows) + len(extra), device_of(rows)
    lines = -(-points // _LINES) * _LINES  # whole panels are quicker than odd ones
    total = torch.zeros(points, lines, dtype=torch.float64, device=device)

    def work(stretch: slice, scratch: Scratch) -> Tensor:
        partial = torch.zeros_like(total)
        for columns, block in column_blocks(rows, stretch, scratch):
            width = block.shape[1]
            relative = scratch.doubles("block", lines, width, device=device)
            relative[:n] = block
            for line, point in zip(relative[n:points], extra, strict=True):
                line.copy_(point[columns])
            away = scratch.doubles("reference", width, device=device).copy_(relative[reference])
            relative[:points] -= away
            torch.neg(away, out=relative[reference])
            relative[points:] = 0
            _add_products(partial, relative)
        return partial

    in_order(stretches(rows), work, total.add_, device=device)
    lower = total[:, :points].cpu().tril()
    products = lower + lower.tril(-1).T
    centred = torch.zeros(points + 1, points + 1, dtype=torch.float64)
    others = [i for i in range(points) if i != reference]
    into, source = torch.tensor([*others, points]), torch.tensor([*others, reference])
    centred[into[:, None], into] = products[source[:, None], source]
    return _merged(centred)


def _merged(centred: Tensor) -> Tensor:
    """Give points at distance zero the products of the first of them, so that they tie.

    A product's last bits depend on the line's place in the panel: without this, equal rows tied
    at n=20 and did not at n=19, and rounding chose among them.
    """
    squares = centred.diagonal()
    around = squares[:, None] + squares[None, :]
    same = (around - 2 * centred <= _ROUNDING * around).fill_diagonal_(True)
    first = torch.where(same, torch.arange(len(same)), len(same)).amin(dim=1)
    return centred[first[:, None], first]


def _add_products(total: Tensor, relative: Tensor) -> None:
    """Add the lower triangle of the inner products, panel by panel: half the multiplications."""
    points, lines = total.shape
    size = max(_PANEL, lines // 8 // _LINES * _LINES)
    for start in range(0, lines, size):
        panel = slice(start, min(start + size, lines))
        total[start:, panel].addmm_(relative[start:points], relative[panel].T)


def middle(values: Tensor) -> float:
    """Median of a few numbers; of an even count the mean of the two middles."""
    ordered = values.sort().values
    return float((ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2)
