"""Which columns of a row are the A and B of LoRA modules, and the points of product space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from torch import Tensor

Columns = tuple[int, int]
Pair = tuple["Tensor", "Tensor"]


@dataclass(frozen=True, slots=True, eq=False)
class Module:
    """One LoRA module: its weight change is ``scale * B @ A``.

    Attributes:
        a: Columns [start, stop) of a row that hold A, row-major (rank, d_in); None where A is not
            trained, and then ``fixed_a`` holds it.
        b: Columns that hold B, row-major (d_out, rank); None where ``fixed_b`` holds it.
        rank: r.
        scale: s = lora_alpha / r.
        fixed_a: The A that every client shares, shape (rank, d_in). P is then s dB A: linear.
        fixed_b: The B that every client shares, shape (d_out, rank). P is then s B dA.

    Raises:
        ValueError: If a factor is both trained and fixed or neither, or a shape does not multiply.
    """

    a: Columns | None
    b: Columns | None
    rank: int
    scale: float
    fixed_a: Tensor | None = None
    fixed_b: Tensor | None = None

    def __post_init__(self) -> None:
        """Refuse columns that cannot be read as two factors of this rank."""
        if self.rank < 1 or not math.isfinite(self.scale) or self.scale <= 0:
            raise ValueError(
                f"a module needs rank >= 1 and a finite scale > 0: got rank={self.rank}, "
                f"scale={self.scale}; the scale is lora_alpha / r"
            )
        if self.a is None and self.b is None:
            raise ValueError("a module needs columns for A or for B: got neither; leave it out")
        for name, columns, fixed in (("a", self.a, self.fixed_a), ("b", self.b, self.fixed_b)):
            if (columns is None) == (fixed is None):
                raise ValueError(
                    f"a module needs either columns {name} or fixed_{name}: got "
                    f"{columns} and {'no' if fixed is None else 'a'} fixed_{name}; give one of them"
                )
            if columns is not None:
                width = columns[1] - columns[0]
                wrong, got = width < self.rank or width % self.rank != 0, f"{width} columns"
            else:
                assert fixed is not None
                wrong = fixed.ndim != 2 or fixed.shape[0 if name == "a" else 1] != self.rank
                got = f"a fixed one of shape {tuple(fixed.shape)}"
            if wrong:
                raise ValueError(
                    f"factor {name} needs values for rank {self.rank}: got {got}; check the layout"
                )

    @property
    def d_in(self) -> int:
        """Columns of A."""
        if self.a is None:
            assert self.fixed_a is not None
            return self.fixed_a.shape[1]
        return (self.a[1] - self.a[0]) // self.rank

    @property
    def d_out(self) -> int:
        """Rows of B."""
        if self.b is None:
            assert self.fixed_b is not None
            return self.fixed_b.shape[0]
        return (self.b[1] - self.b[0]) // self.rank

    def factors(self, row: Tensor) -> Pair:
        """Read B (d_out, rank) and A (rank, d_in) of a whole row, float64, fixed ones included."""
        b, a = self.moves(row)
        if b is None:
            assert self.fixed_b is not None
            b = self.fixed_b.to(row.device, torch.float64)
        if a is None:
            assert self.fixed_a is not None
            a = self.fixed_a.to(row.device, torch.float64)
        return b, a

    def moves(self, row: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Read dB and dA of a delta row, float64; None for a factor that is not trained."""
        b, a = (None if x is None else x.to(torch.float64) for x in self.views(row))
        return b, a

    def views(self, row: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """View B and A of a row as matrices of its dtype; None for a factor not trained."""
        return (
            None if self.b is None else row[slice(*self.b)].reshape(-1, self.rank),
            None if self.a is None else row[slice(*self.a)].reshape(self.rank, -1),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """The description of a row.

    Attributes:
        modules: The LoRA modules.
        plain: Columns [start, stop) trained whole, such as heads: compared as they are.
        num_columns: d.

    Raises:
        ValueError: If a column belongs to nothing, or to two things.
    """

    modules: tuple[Module, ...]
    plain: tuple[Columns, ...]
    num_columns: int

    def __post_init__(self) -> None:
        """Refuse gaps and overlaps."""
        held = [columns for m in self.modules for columns in (m.a, m.b) if columns is not None]
        reached = 0
        for start, stop in sorted([*held, *self.plain]):
            if start != reached or stop <= start:
                what = "overlap" if start < reached else "a gap or an empty range"
                raise ValueError(
                    f"factors needs every column in exactly one place: got {what} at columns "
                    f"[{start}, {stop}) after {reached}; check the layout"
                )
            reached = stop
        if reached != self.num_columns:
            raise ValueError(
                f"factors needs all {self.num_columns} columns: got {reached}; name the rest plain"
            )

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """(d_out, d_in) of each module: the same for clients of all ranks."""
        return tuple((module.d_out, module.d_in) for module in self.modules)

    @property
    def num_plain(self) -> int:
        """How many columns are plain."""
        return sum(stop - start for start, stop in self.plain)

    def plain_of(self, row: Tensor) -> Tensor:
        """Read the plain columns, end to end, in the row's dtype."""
        return torch.cat([row[slice(*columns)] for columns in self.plain] or [row[:0]])


class Point(Protocol):
    """A point of product space with modules that are made one at a time."""

    @property
    def plain(self) -> Tensor:
        """The plain columns, shape (w,), float64."""
        ...

    def __len__(self) -> int:
        """How many modules there are."""
        ...

    def pair(self, k: int) -> Pair:
        """Module k as (left, right) of shapes (d_out, q) and (q, d_in), float64."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """A point of product space: one low-rank matrix ``left @ right`` per module, and plain values.

    The scale s stands inside ``left``, so points of different ranks and scales add.

    Attributes:
        pairs: (left, right) of shapes (d_out, q) and (q, d_in) per module, float64. q may be 0.
        plain: The plain columns, shape (w,), float64.
    """

    pairs: tuple[Pair, ...]
    plain: Tensor

    def __len__(self) -> int:
        """How many modules there are."""
        return len(self.pairs)

    def pair(self, k: int) -> Pair:
        """Module k."""
        return self.pairs[k]

    def squared_norm(self) -> float:
        """Squared length of the matrices, plain columns left out, from q x q pieces."""
        return math.fsum(
            float(((left.T @ left) * (right @ right.T)).sum()) for left, right in self.pairs
        )


def split(row: Tensor, factors: Factors) -> LowRank:
    """Read a whole row (never a delta) as the point that its products are."""
    check_row(row, factors, "row")
    pairs = [module.factors(row) for module in factors.modules]
    scaled = [(m.scale * b, a) for m, (b, a) in zip(factors.modules, pairs, strict=True)]
    return LowRank(tuple(scaled), factors.plain_of(row).to(torch.float64))


def join(point: LowRank, factors: Factors, *, dtype: torch.dtype | None = None) -> Tensor:
    """Write a point as a row, if its pairs have the modules' own ranks; undoes ``split``.

    Args:
        point: Of those modules.
        factors: Where the row holds A and B of each.
        dtype: Of the row; default: float32.

    Raises:
        ValueError: If a pair has another rank: ``truncate`` it or ``step`` to it first.
    """
    row = torch.empty(factors.num_columns, dtype=dtype or torch.float32, device=point.plain.device)
    for module, (left, right) in zip(factors.modules, point.pairs, strict=True):
        if left.shape != (module.d_out, module.rank) or right.shape[1] != module.d_in:
            raise ValueError(
                f"join needs a pair of rank {module.rank}: got {tuple(left.shape)} and "
                f"{tuple(right.shape)}; truncate the point first"
            )
        write(row, module, left / module.scale, right)
    write_plain(row, factors, point.plain)
    return row


def write(row: Tensor, module: Module, b: Tensor, a: Tensor) -> None:
    """Write a module's trained factors into a row, in place."""
    if module.b is not None:
        row[slice(*module.b)] = b.reshape(-1).to(row.dtype)
    if module.a is not None:
        row[slice(*module.a)] = a.reshape(-1).to(row.dtype)


def write_plain(row: Tensor, factors: Factors, values: Tensor) -> None:
    """Write plain values, laid end to end, into a row, in place."""
    start = 0
    for first, stop in factors.plain:
        row[first:stop] = values[start : start + stop - first].to(row.dtype)
        start += stop - first


def stacked(pairs: Sequence[Pair], weights: Sequence[float]) -> Pair:
    """Add pairs of one module, each times its weight; ranks add up. At least one pair."""
    return (
        torch.cat([w * left for (left, _), w in zip(pairs, weights, strict=True)], dim=1),
        torch.cat([right for _, right in pairs]),
    )


def weighted_sum(points: Sequence[LowRank], weights: Sequence[float]) -> LowRank:
    """Add points, each times its weight; ranks add up. A point of weight zero is never read."""
    kept = [(p, w) for p, w in zip(points, weights, strict=True) if w != 0]
    if not kept:
        kept = [(LowRank(tuple((b[:, :0], a[:0]) for b, a in p.pairs), p.plain * 0), 1.0)
                for p in points[:1]]  # fmt: skip
    pairs = [
        (
            torch.cat([w * p.pairs[k][0] for p, w in kept], dim=1),
            torch.cat([p.pairs[k][1] for p, _ in kept]),
        )
        for k in range(len(kept[0][0].pairs))
    ]
    plain = torch.zeros_like(kept[0][0].plain)
    for p, w in kept:
        plain.add_(p.plain, alpha=w)
    return LowRank(tuple(pairs), plain)


def check_row(row: Tensor, factors: Factors, name: str) -> None:
    """Refuse a row that the description does not fit."""
    if row.shape != (factors.num_columns,) or not row.is_floating_point():
        raise ValueError(
            f"{name} needs {factors.num_columns} floating columns: got {row.dtype} "
            f"{tuple(row.shape)}; hand in the factors that describe it"
        )
