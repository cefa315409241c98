"""The rows as the engine sees them: stretches of columns, in blocks, in float64.

A source of rows is an (n, d) tensor, any sequence of n tensors of shape (d,), or files
(``FileRows``). Only blocks of columns are ever copied, and how the columns are cut depends on n
and d alone, so the same numbers give the same bits from any source, with any number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch

from aggregators.engine.files import FileRows
from aggregators.engine.pool import Scratch, in_order
from aggregators.engine.pool import one_thread as one_thread  # for those who only multiply n x n

if TYPE_CHECKING:
    from torch import Tensor

Rows: TypeAlias = "Tensor | Sequence[Tensor]"

_BLOCK_VALUES = 1 << 18  # 2 MB of float64: what a core works on stays in its cache
_STRETCH_VALUES = 1 << 21  # 8 MB of float32: what a thread takes, and reads from files, at a time
# However many rows, a block and a stretch have so many columns: fewer do not pay for the n x n
# sums, and a disk wants 64 kB at a time. Both together, 1000 files of 100k: 14.8 s -> 2.7.
_NARROWEST = 1024
_SHORTEST = 1 << 14
_DEVICE_VALUES = 1 << 25  # on a GPU: 256 MB of float64, few launches


def num_columns(rows: Rows) -> int:
    """How many coordinates a row has: d."""
    return rows.num_columns if isinstance(rows, FileRows) else rows[0].numel()


def dtype_of(rows: Rows) -> torch.dtype:
    """The rows' one dtype."""
    return rows.dtype if isinstance(rows, FileRows) else rows[0].dtype


def device_of(rows: Rows) -> torch.device:
    """Where the rows are; files are on the CPU."""
    return torch.device("cpu") if isinstance(rows, FileRows) else rows[0].device


def empty_row(rows: Rows) -> Tensor:
    """Make a contiguous row like the others, not filled in, shape (d,)."""
    return torch.empty(num_columns(rows), dtype=dtype_of(rows), device=device_of(rows))


def block_width(rows: Rows) -> int:
    """How many columns a block has: no multiple of 16, or its rows would share cache lines' sets.

    Measured: products of rows 8192 columns apart take a fifth longer than at 8200.
    """
    values = _BLOCK_VALUES if device_of(rows).type == "cpu" else _DEVICE_VALUES
    return max(_NARROWEST, values // len(rows)) // 16 * 16 + 8


def stretches(rows: Rows) -> list[slice]:
    """Cut the columns into stretches of whole blocks, one for each turn of a thread."""
    width, columns = block_width(rows), num_columns(rows)
    if device_of(rows).type == "cpu":
        width *= max(_STRETCH_VALUES // _BLOCK_VALUES, -(-_SHORTEST // width))
    return [slice(k, min(k + width, columns)) for k in range(0, columns, width)]


def column_blocks(
    rows: Rows,
    stretch: slice,
    scratch: Scratch,
    *,
    which: Sequence[int] | None = None,
    width: int | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """Visit a stretch of columns block by block.

    Args:
        rows: The n rows.
        stretch: The columns to visit; of files, all of it is read at once.
        scratch: Buffers to use: a block is valid until the next one.
        which: Indices of the only rows to look at, k of them; all unless given.
        width: Columns of a block; what a core's cache holds in float64 unless given.

    Yields:
        The columns, and the block of shape (n or k, width) in the rows' own dtype; it may be a
        view of the rows, so it must not be written to.
    """
    kept = range(len(rows)) if which is None else which
    dtype, device = dtype_of(rows), device_of(rows)
    width = block_width(rows) if width is None else width

    def borrow(length: int) -> Tensor:
        return scratch.get("rows", len(kept), length, dtype=dtype, device=device)

    whole: Tensor | None = None
    if isinstance(rows, FileRows):
        whole = rows.read(stretch, kept, borrow(stretch.stop - stretch.start))
    elif isinstance(rows, torch.Tensor) and which is None:
        whole = rows[:, stretch]
    for start in range(stretch.start, stretch.stop, width):
        part = slice(start, min(start + width, stretch.stop))
        if whole is not None:
            yield part, whole[:, start - stretch.start : part.stop - stretch.start]
        else:
            block = borrow(part.stop - part.start)
            for line, index in zip(block, kept, strict=True):
                line.copy_(rows[index][part])
            yield part, block


def in_float64(block: Tensor, scratch: Scratch) -> Tensor:
    """Copy a block into a float64 buffer, which may be written to."""
    return scratch.doubles("block", *block.shape, device=block.device).copy_(block)


def sum_squares(doubles: Tensor) -> Tensor:
    """Sum the squares of each row of a float64 block, which is overwritten: (n,), on its device."""
    return doubles.mul_(doubles).sum(dim=1)


def squared_norms(rows: Rows, *, within: Sequence[slice] | None = None) -> Tensor:
    """Sum the squares of each row in float64, shape (n,), on the CPU.

    Not finite exactly where the row is not finite, or its square overflows float64.

    Args:
        rows: The n rows.
        within: The stretches of columns to look at; all unless given.
    """
    return _summed_squares(rows, None, stretches(rows) if within is None else within)


def distances_to(rows: Rows, point: Tensor) -> Tensor:
    """Measure each row's distance to one point of shape (d,), shape (n,) float64, on the CPU."""
    return _summed_squares(rows, point, stretches(rows)).sqrt()


def _summed_squares(rows: Rows, point: Tensor | None, within: Sequence[slice]) -> Tensor:
    total = torch.zeros(len(rows), dtype=torch.float64, device=device_of(rows))

    def work(stretch: slice, scratch: Scratch) -> Tensor:
        partial = torch.zeros_like(total)
        for columns, block in column_blocks(rows, stretch, scratch):
            doubles = in_float64(block, scratch)
            if point is not None:
                doubles -= point[columns].to(torch.float64)
            partial += sum_squares(doubles)
        return partial

    in_order(within, work, total.add_, device=total.device)
    return total.cpu()


def combine(rows: Rows, weights: Tensor, *, extra: Sequence[Tensor] = ()) -> Tensor:
    """Sum the rows and the extra points, each times its weight.

    Accumulates in float64. A row of weight zero is never read: 0 * NaN is NaN. n equal float32
    rows of weight 1/n give back that row, bit for bit.

    Args:
        rows: The n rows.
        weights: Shape (n + e,): the rows', then the extra points'.
        extra: e more points of shape (d,).

    Returns:
        The sum, shape (d,), dtype and device of the rows.

    Raises:
        ValueError: If there is not one weight per row and extra point.
    """
    n = len(rows)
    if weights.shape != (n + len(extra),):
        raise ValueError(
            f"combine needs one weight per row: got {n + len(extra)} rows and weights of shape "
            f"{tuple(weights.shape)}; give one weight per row"
        )
    chosen = weights.nonzero().flatten().tolist()
    which = [i for i in chosen if i < n]
    points = [extra[i - n] for i in chosen if i >= n]
    result = empty_row(rows)
    if not chosen:
        return result.zero_()
    device = result.device
    kept = weights[chosen].to(device, torch.float64)[None]

    def work(stretch: slice, scratch: Scratch) -> None:
        for columns, block in column_blocks(rows, stretch, scratch, which=_unless_all(which, n)):
            width = columns.stop - columns.start
            doubles = scratch.doubles("block", len(chosen), width, device=device)
            doubles[: len(which)] = block
            for line, point in zip(doubles[len(which) :], points, strict=True):
                line.copy_(point[columns])
            total = scratch.doubles("sum", 1, width, device=device)
            result[columns] = torch.mm(kept, doubles, out=total)[0]

    in_order(stretches(rows), work, lambda _: None, device=device)
    return result


def _unless_all(which: Sequence[int], n: int) -> Sequence[int] | None:
    return None if len(which) == n else which
