"""The Gram engine: one pass over the rows, then everything on an n x n matrix."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aggregators.rows import Rows, column_blocks, one_thread, squared_norms

# A squared distance is a difference of larger numbers. Below this share of them it is rounding,
# and counts as zero: equal rows are at distance 0, not 1e-8.
_ROUNDING = 1e-14


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
    def from_inner_products(cls, products: Tensor, num_clients: int | None = None) -> "Gram":
        """Build from plain inner products <p_i, p_j> of shape (p, p): the origin is the reference.

        Loses digits when the rows share a large offset; ``gram`` does not.
        """
        points = len(products)
        centred = torch.zeros(points + 1, points + 1, dtype=torch.float64)
        centred[:points, :points] = products
        return cls(centred, points if num_clients is None else num_clients)

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

    def mixed(self, matrix: Tensor) -> "Gram":
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

    Walks the columns in blocks and accumulates in float64, relative to the row of median norm
    (the lower one of an even count). With a common offset of 1000 times the spread, float32
    ``X @ X.T`` is off by 1.3 and this by 2e-7; a payload of 1e8 as the reference would spoil the
    distances even in float64, so the reference is never an extreme row.

    Args:
        rows: One client update per row: an (n, d) tensor or n tensors of shape (d,).
        extra: More points of shape (d,), placed after the clients.
        squares: The rows' squared norms, if already known, shape (n,).

    Returns:
        The Gram, on the CPU. The same bits whatever the number of threads.

    Raises:
        ValueError: If an inner product is not finite.
    """
    n, points = len(rows), len(rows) + len(extra)
    squares = squared_norms(rows) if squares is None else squares
    reference = int(squares.sort(stable=True).indices[(n - 1) // 2])
    total = torch.zeros(points + 1, points + 1, dtype=torch.float64, device=rows[0].device)
    with one_thread():
        for columns, block in column_blocks(rows):
            relative = block.new_zeros(points + 1, block.shape[1], dtype=torch.float64)
            relative[:n] = block
            for k, point in enumerate(extra):
                relative[n + k] = point[columns]
            relative -= relative[reference].clone()
            total += relative @ relative.T
    return Gram(((total + total.T) / 2).cpu(), n)


def middle(values: Tensor) -> float:
    """Median of a few numbers; of an even count the mean of the two middles."""
    ordered = values.sort().values
    return float((ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2)
