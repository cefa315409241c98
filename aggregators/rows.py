"""The rows as the engine sees them: blocks of columns, in float64, on one thread.

A source of rows is an (n, d) tensor or any sequence of n tensors of shape (d,), so that rows may
come from files that are mapped and never all in memory. Only a block of columns is ever copied.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

Rows = Tensor | Sequence[Tensor]

_BLOCK_VALUES = 1 << 17  # 1 MB of float64: one block and its copy stay in a core's cache


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread, so that a sum has one order whatever the machine.

    Measured: the float64 product of a (21, 5000) matrix with its transpose differs in its last
    bits between one thread and two.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def column_blocks(rows: Rows) -> Iterator[tuple[slice, Tensor]]:
    """Visit the columns block by block.

    Args:
        rows: An (n, d) tensor, or n tensors of shape (d,).

    Yields:
        The columns, and the block of shape (n, width) in the rows' own dtype; it may be a view
        of the rows, so it must not be written to.
    """
    num_columns = rows[0].numel()
    width = max(1024, _BLOCK_VALUES // len(rows))
    for start in range(0, num_columns, width):
        columns = slice(start, min(start + width, num_columns))
        if isinstance(rows, Tensor):
            yield columns, rows[:, columns]
        else:
            yield columns, torch.stack([row[columns] for row in rows])


def squared_norms(rows: Rows) -> Tensor:
    """Sum the squares of each row in float64, shape (n,), on the CPU.

    Not finite exactly where the row is not finite, or its square overflows float64.
    """
    total = torch.zeros(len(rows), dtype=torch.float64)
    with one_thread():
        for _, block in column_blocks(rows):
            total += block.to(torch.float64).square().sum(dim=1).cpu()
    return total


def distances_to(rows: Rows, point: Tensor) -> Tensor:
    """Measure each row's distance to one point of shape (d,), shape (n,) float64, on the CPU."""
    total = torch.zeros(len(rows), dtype=torch.float64)
    with one_thread():
        for columns, block in column_blocks(rows):
            gap = block.to(torch.float64) - point[columns].to(torch.float64)
            total += gap.square().sum(dim=1).cpu()
    return total.sqrt()


def combine(rows: Rows, weights: Tensor) -> Tensor:
    """Sum the rows, each times its weight.

    Accumulates in float64, in row order. A row of weight zero is never read: 0 * NaN is NaN.
    n equal float32 rows of weight 1/n give back that row, bit for bit.

    Args:
        rows: An (n, d) tensor, or n tensors of shape (d,).
        weights: Shape (n,).

    Returns:
        The sum, shape (d,), dtype and device of the first row.

    Raises:
        ValueError: If there is not one weight per row.
    """
    if weights.shape != (len(rows),):
        raise ValueError(
            f"combine needs one weight per row: got {len(rows)} rows and weights of shape "
            f"{tuple(weights.shape)}; give one weight per row"
        )
    kept = [(rows[i], weight) for i, weight in enumerate(weights.tolist()) if weight != 0]
    result = torch.empty_like(rows[0], memory_format=torch.contiguous_format)
    with one_thread():
        for start in range(0, result.numel(), _BLOCK_VALUES):
            columns = slice(start, min(start + _BLOCK_VALUES, result.numel()))
            total = torch.zeros_like(result[columns], dtype=torch.float64)
            for row, weight in kept:
                total.add_(row[columns], alpha=weight)
            result[columns] = total
    return result
