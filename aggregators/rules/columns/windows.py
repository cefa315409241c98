"""The values nearest a centre: a window that slides over each sorted column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from aggregators.engine.rule import Kept
from aggregators.engine.sorting import average_into, on_sorted
from aggregators.engine.ties import TIE

if TYPE_CHECKING:
    from torch import Tensor


def loose_ranks(m: int, count: int) -> range:
    """Ranks that are in every window of so many of m values, and at no window's end."""
    return range(m - count + 1, count - 1)


def around_median(block: Tensor, *, count: int) -> Kept:
    """Average the ``count`` values of each column that are nearest its median, (m, w) -> Kept."""
    m = len(block)

    def finish(rows: Sequence[Tensor], kept: Kept) -> None:
        centre = rows[(m - 1) // 2].to(torch.float64, copy=True).add_(rows[m // 2]).div_(2)
        average_nearest(rows, centre, kept, count=count)

    loose = set(loose_ranks(m, count)) - {(m - 1) // 2, m // 2}
    return on_sorted(block, range(m), finish, loose=loose)


def average_nearest(rows: Sequence[Tensor], centre: Tensor, kept: Kept, *, count: int) -> None:
    """Average, in each column, the values nearest the centre.

    They lie side by side in a sorted column. The window starts at the least value and moves up
    while the next value above it is nearer than its own least by more than 1e-9 of the
    distance: equally near, the lower value stays. Each move puts the value ``count`` ranks up in
    the place of the one that leaves, so nothing is ever subtracted from a sum, and a payload of
    1e8 leaves no trace.

    Args:
        rows: m rows of shape (w,), sorted down each column but for ``loose_ranks``.
        centre: Float64, shape (w,).
        kept: The means, and the least and the greatest value of each window; written.
        count: How many to average, 1 to m.
    """
    moves = len(rows) - count
    above, below = torch.empty_like(centre), torch.empty_like(centre)
    endless = torch.full_like(kept.low, torch.inf)
    gate = torch.empty_like(kept.low)
    entering = [torch.empty_like(kept.low) for _ in range(moves)]
    kept.low.copy_(rows[0])
    kept.high.copy_(rows[count - 1])
    for k, entered in enumerate(entering):
        torch.sub(rows[k + count], centre, out=above)
        torch.sub(rows[k], centre, out=below)
        # A gate of inf where the window moves and -inf where it stays chooses as torch.where
        # does, bit for bit, in a third of the time.
        gate.copy_(below.add_(above, alpha=1 + TIE))
        torch.copysign(endless, gate, out=gate).neg_()
        torch.minimum(rows[k + count], gate, out=entered)
        torch.maximum(kept.high, entered, out=kept.high)
        torch.minimum(rows[k + 1], gate, out=gate)
        torch.maximum(kept.low, gate, out=kept.low)
    average_into(kept.values, _windows(rows, entering, count), kept.low, kept.high)


def _windows(rows: Sequence[Tensor], entering: list[Tensor], count: int) -> Iterator[Tensor]:
    """Yield the ``count`` values of each column's window: row k, or what has taken its place."""
    for first in range(count):
        value = rows[first]
        for entered in entering[first::count]:
            value = torch.maximum(value, entered, out=entered)
        yield value
