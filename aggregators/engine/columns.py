"""Rules on the columns: run one block of columns at a time, and count the clients it used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from aggregators.engine.files import FileRows
from aggregators.engine.pool import Scratch, in_order
from aggregators.engine.rows import (
    Rows,
    column_blocks,
    device_of,
    empty_row,
    in_float64,
    num_columns,
    stretches,
    sum_squares,
)
from aggregators.engine.rule import Kept
from aggregators.engine.sorting import WIDEST_NETWORK

if TYPE_CHECKING:
    from torch import Tensor

ColumnRule = Callable[["Tensor"], Kept]

_COUNT_ALL_BELOW = 1 << 17  # with fewer columns, each is counted
_COUNTED = 16  # else every 16th of each block: the count would take as long as the rule
_LARGEST = 1e140  # beyond it a sum of squares may leave float64


@dataclass(frozen=True, slots=True, eq=False)
class Walk:
    """The result of a walk over the columns.

    Attributes:
        aggregate: Shape (d,), dtype and device of the rows.
        used: The share of coordinates at which each (mixed) row's value was used, shape (m,),
            float64, on the CPU. From d = 131072 on an estimate: every 16th column of each block
            is looked at. Zeros unless measured.
        distances: Each row's distance to the aggregate, shape (n,), likewise.
        in_doubt: Whether some block was left out because a value in it may be infinite, nan, or
            too large to square.
    """

    aggregate: Tensor
    used: Tensor
    distances: Tensor
    in_doubt: bool = False


def count_within(block: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Count, for each row, the columns where its value lies in [low, high]: (n,) float64.

    A row whose value equals an end is within, whichever of the equal rows a sort would drop.
    """
    return ((block >= low) & (block <= high)).sum(dim=1).to(torch.float64)


def _distinct(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Find the first of each set of equal rows, and for each row the place of its first.

    Neighbours often mix to the same row. Formed once, it ties with itself; formed twice it would
    differ in the last bit, and which of the two was used would be rounding.
    """
    _, which = torch.unique(matrix.round(decimals=12), dim=0, return_inverse=True)
    first = torch.full((int(which.max()) + 1,), len(matrix))
    first.scatter_reduce_(0, which, torch.arange(len(matrix)), "amin")
    return first, which


class _Mixer:
    """Mixes the rows of a block, in float64; so does the rule then compare them.

    Rounded to float32 first, NNM and trimmed mean would take 0.84 of the time at n=20, and would
    no longer give what the same rows in float64 give.
    """

    def __init__(self, matrix: Tensor, rows: Rows) -> None:
        first, which = _distinct(matrix)
        device, repeats = device_of(rows), len(first) < len(matrix)
        self._weights = (matrix[first] if repeats else matrix).to(device, torch.float64)
        self._which = which.to(device) if repeats else None

    def mix(self, doubles: Tensor, scratch: Scratch) -> Tensor:
        """Mix an (n, w) block of float64 into (m, w)."""
        shape, device = (len(self._weights), doubles.shape[1]), doubles.device
        mixed = scratch.doubles("mixed", *shape, device=device)
        torch.mm(self._weights, doubles, out=mixed)
        return mixed if self._which is None else mixed[self._which]


@dataclass(slots=True, eq=False)
class _Tally:
    """Sums over blocks: uses, columns looked at for them, squared distances; and any doubt."""

    used: Tensor
    squares: Tensor
    seen: int = 0
    in_doubt: bool = False

    def add(self, other: _Tally) -> None:
        self.used += other.used
        self.squares += other.squares
        self.seen += other.seen
        self.in_doubt |= other.in_doubt

    def count(self, block: Tensor, kept: Kept, step: int) -> None:
        """Count uses on every so manieth column."""
        looked_at = block[:, ::step]
        self.used += count_within(looked_at, kept.low[::step], kept.high[::step])
        self.seen += looked_at.shape[1]


def walk_columns(
    rows: Rows,
    rule: ColumnRule,
    *,
    matrix: Tensor | None = None,
    measure: bool = True,
    screen: bool = False,
) -> Walk:
    """Run a column rule over blocks of columns, mixing the rows of each block first.

    Mixed rows are formed in float64 and never for more than one block a thread.

    Args:
        rows: The n client updates.
        rule: Takes an (m, w) block, returns what it kept. Called in several threads at once.
        matrix: Mixing matrix of shape (m, n), or None for the rows as they are.
        measure: Whether to count uses and measure distances, in the same pass.
        screen: Whether to leave out blocks with values that may not be finite, and say so.

    Returns:
        The aggregate, and what was measured. The same bits whatever the number of threads.
    """
    result, device = empty_row(rows), device_of(rows)
    n, m = len(rows), len(rows) if matrix is None else len(matrix)
    mixer = None if matrix is None else _Mixer(matrix, rows)
    step = 1 if num_columns(rows) < _COUNT_ALL_BELOW else _COUNTED
    bare = mixer is None and not measure
    elementwise = bare and n <= WIDEST_NETWORK and not isinstance(rows, FileRows)

    def tally() -> _Tally:
        sums = torch.zeros(2, max(n, m), dtype=torch.float64, device=device)
        return _Tally(sums[0, :m], sums[1, :n])

    def work(stretch: slice, scratch: Scratch) -> _Tally:
        partial = tally()
        # A column rule cuts to its own measure what it is given; float64 must fit the cache.
        width = stretch.stop - stretch.start if bare else None
        for columns, block in column_blocks(rows, stretch, scratch, width=width):
            if screen and _is_in_doubt(block):
                partial.in_doubt = True
                continue
            mixed = block if mixer is None else mixer.mix(in_float64(block, scratch), scratch)
            kept = rule(mixed)
            result[columns] = kept.values
            if measure:
                partial.count(mixed, kept, step)
                gap = in_float64(block, scratch)
                gap -= result[columns].to(torch.float64)
                partial.squares += sum_squares(gap)
        return partial

    total = tally()
    in_order(stretches(rows), work, total.add, device=device, elementwise=elementwise)
    used = total.used / max(1, total.seen)
    return Walk(result, used.cpu(), total.squares.sqrt().cpu(), total.in_doubt)


def _is_in_doubt(block: Tensor) -> bool:
    """Whether a value of the block may be infinite, nan, or beyond 1e140."""
    if block.dtype != torch.float64:
        return not bool(block.sum(dtype=torch.float32).isfinite())
    low, high = torch.aminmax(block)
    return not (float(low) > -_LARGEST and float(high) < _LARGEST)
