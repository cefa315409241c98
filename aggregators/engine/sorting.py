"""Order statistics of columns: the kernel under every rule on columns.

Up to 48 rows, a pruned sorting network runs on whole rows of the block, minima and maxima, in
chunks that stay in a core's cache. n=20, f=4, d=1e6, float32, one core: the trimmed mean's network
takes 21 ms where ``torch.sort(dim=0)`` takes 546. Beyond that a network costs more than sorting
each column, one after the other in memory. Values are only ever compared and copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from aggregators.engine.rule import Kept

if TYPE_CHECKING:
    from torch import Tensor

WIDEST_NETWORK = 48
_ROW_BYTES = 1 << 17  # at 1 << 14 the calls take as long as the work
_SORTED_VALUES = 1 << 19  # 2 MB of float32 to sort in place

_TURNED_ROWS = 16  # at once: rows 2^k bytes apart share a cache's few places; all 100 cost 4 times

Comparator = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Network:
    """A program of minima and maxima over slots: the m input rows, never written, then buffers.

    Attributes:
        steps: (whether a maximum, one slot, the other slot, the slot to write to).
        found: For each rank asked for, its slot at the end.
        num_buffers: How many slots come after the input rows.
    """

    steps: tuple[tuple[bool, int, int, int], ...]
    found: tuple[int, ...]
    num_buffers: int


def sorted_chunks(
    block: Tensor, ranks: range, *, loose: Iterable[int] = ()
) -> Iterator[tuple[slice, Sequence[Tensor]]]:
    """Sort each column of a block, chunk by chunk, and hand out the ranks asked for.

    Args:
        block: Finite values, shape (m, w), floating, any strides; never modified.
        ranks: Which ranks of each column, 0 the least; consecutive.
        loose: Those of them that may come in any order among themselves.

    Yields:
        The columns of the chunk, and one row per rank in the block's dtype (float32 for the
        halves). The rows are views of buffers, or of the block: read them before the next chunk,
        never write to them.
    """
    block = block.detach()
    if block.dtype in (torch.float16, torch.bfloat16):
        block = block.to(torch.float32)
    on_cpu = block.device.type == "cpu"
    m, w = block.shape
    if m > WIDEST_NETWORK:
        yield from (_sort_across if on_cpu else _sort_down)(block, ranks)
        return
    network = selection_network(m, ranks, frozenset(loose))
    width = min(w, _row_bytes() // block.element_size()) if on_cpu else w
    buffers = block.new_empty(network.num_buffers, width)
    for start in range(0, w, width):
        columns = slice(start, min(start + width, w))
        chunk = block[:, columns]
        chunk = chunk if chunk.stride(1) == 1 else chunk.contiguous()
        slots = [*chunk.unbind(), *buffers[:, : chunk.shape[1]].unbind()]
        _run(network, slots, on_cpu=on_cpu)
        yield columns, [slots[slot] for slot in network.found]


def row_chunks(block: Tensor) -> Iterator[tuple[slice, Sequence[Tensor]]]:
    """Visit a block in chunks with rows that stay in a core's cache; the rows are views of it."""
    width = max(1, _row_bytes() // block.element_size())
    for start in range(0, block.shape[1], width):
        columns = slice(start, min(start + width, block.shape[1]))
        yield columns, block[:, columns].unbind()


def on_sorted(
    block: Tensor,
    ranks: range,
    finish: Callable[[Sequence[Tensor], Kept], None],
    *,
    loose: Iterable[int] = (),
) -> Kept:
    """Sort as ``sorted_chunks`` does, and let ``finish`` fill in what it keeps of each chunk.

    Args:
        block: As there.
        ranks: As there.
        finish: Called with one row per rank and the chunk's part of the result, to be written.
        loose: As there.

    Returns:
        What was kept of the whole block, its values in float64.
    """
    halves = block.dtype in (torch.float16, torch.bfloat16)
    values = block.new_empty(block.shape[1], dtype=torch.float64)
    ends = block.new_empty(2, block.shape[1], dtype=torch.float32 if halves else block.dtype)
    for columns, rows in sorted_chunks(block, ranks, loose=loose):
        finish(rows, Kept(values[columns], ends[0, columns], ends[1, columns]))
    return Kept(values, ends[0], ends[1])


def average_into(total: Tensor, rows: Iterable[Tensor], low: Tensor, high: Tensor) -> None:
    """Average rows whose least and greatest are known into a float64 row, in their order.

    Rounding stays between the two, so that n equal float64 rows give that row: n x / n may be
    x's neighbour.
    """
    count = 0
    total.zero_()
    for row in rows:
        total += row
        count += 1
    total /= count
    if low.dtype == torch.float64:
        total.clamp_(low, high)


def _row_bytes() -> int:
    """Bytes of a chunk's row for the threads that torch has: each gets its own piece of a row."""
    return _ROW_BYTES * (1 if torch.get_num_threads() == 1 else 4)


def _run(network: Network, slots: list[Tensor], *, on_cpu: bool) -> None:
    # On one thread of a CPU NumPy's: 21 ms where torch's minimum and maximum take 28.
    numpy = on_cpu and torch.get_num_threads() == 1
    views: list[Any] = [slot.numpy() for slot in slots] if numpy else slots
    least, greatest = (np.minimum, np.maximum) if numpy else (torch.minimum, torch.maximum)
    for is_maximum, one, other, into in network.steps:
        choose: Any = greatest if is_maximum else least
        choose(views[one], views[other], out=views[into])


def _sort_across(block: Tensor, ranks: range) -> Iterator[tuple[slice, Sequence[Tensor]]]:
    """Transpose a chunk so that each column is contiguous, sort (SIMD in NumPy), transpose back."""
    m, w = block.shape
    values = block.numpy()
    width = min(w, max(64, _SORTED_VALUES // m))
    across = np.empty((width, m), dtype=values.dtype)
    rows = np.empty((len(ranks), width), dtype=values.dtype)
    for start in range(0, w, width):
        columns = slice(start, min(start + width, w))
        turned, back = across[: columns.stop - start], rows[:, : columns.stop - start]
        for row in range(0, m, _TURNED_ROWS):
            some = slice(row, min(row + _TURNED_ROWS, m))
            turned[:, some] = values[some, columns].T
        turned.sort(axis=1)
        np.copyto(back, turned[:, ranks.start : ranks.stop].T)
        yield columns, torch.from_numpy(back).unbind()


def _sort_down(block: Tensor, ranks: range) -> Iterator[tuple[slice, Sequence[Tensor]]]:
    yield slice(0, block.shape[1]), block.sort(dim=0).values[ranks.start : ranks.stop].unbind()


@lru_cache(maxsize=256)
def selection_network(m: int, ranks: range, loose: frozenset[int] = frozenset()) -> Network:
    """Find a program for the ranks of m values: the pairwise sorting network, pruned.

    Values that are not there count as infinite. So m wires are any m neighbours of the full
    network, and which ones matters: for the two middles of 20, 126 minima and maxima at best and
    146 at worst, where Batcher's network keeps 144.

    Source:
        Parberry 1992, "The pairwise sorting network", Parallel Processing Letters 2;
        Knuth, The Art of Computer Programming 3, 5.3.4, for sorting networks and their pruning.
    """
    full = 1 << (m - 1).bit_length()
    comparators = pairwise_network(range(full))
    programs = []
    for first in range(0, full - m + 1, max(1, (full - m + 1) // 8)):  # 8 to 15 of them
        within = [(i - first, j - first) for i, j in comparators if first <= i and j < first + m]
        programs.append(_assign(_prune(within, ranks, loose), m, ranks))
    return min(programs, key=lambda program: len(program.steps))


def pairwise_network(wires: Sequence[int]) -> list[Comparator]:
    """List the comparators of the pairwise sorting network on 2^k wires, the lesser wire first.

    Sort within pairs, sort the pairs by their lesser and, apart, by their greater values, then
    compare each greater value with the lesser ones of pairs further up, the furthest first.
    """
    if len(wires) < 2:
        return []
    lesser, greater = wires[0::2], wires[1::2]
    comparators = list(zip(lesser, greater, strict=True))
    comparators += pairwise_network(lesser) + pairwise_network(greater)
    apart = len(lesser) // 2
    while apart:
        comparators += zip(greater[:-apart], lesser[apart:], strict=True)
        apart //= 2
    return comparators


def _prune(
    comparators: list[Comparator], ranks: range, loose: frozenset[int]
) -> list[tuple[int, int, bool, bool]]:
    """Keep the comparators that the ranks depend on: (wire, wire, needs least, needs greatest).

    Backwards from the end. Two wires with an order that nothing later depends on need not be
    compared.
    """
    wanted, unordered = set(ranks), set(loose)
    kept = []
    for i, j in reversed(comparators):
        if {i, j} <= unordered or not {i, j} & wanted:
            continue
        kept.append((i, j, i in wanted, j in wanted))
        wanted |= {i, j}
        unordered -= {i, j}
    return kept[::-1]


def _assign(comparators: list[tuple[int, int, bool, bool]], m: int, ranks: range) -> Network:
    """Give each value a slot; a buffer is used again when its value is no longer needed."""
    where = list(range(m))
    free: list[int] = []
    steps: list[tuple[bool, int, int, int]] = []
    num_slots = m
    for i, j, needs_least, needs_greatest in comparators:
        one, other = where[i], where[j]
        own = [slot for slot in (one, other) if slot >= m]
        for is_maximum, needed, wire in ((False, needs_least, i), (True, needs_greatest, j)):
            if not needed:
                continue
            last = is_maximum or not needs_greatest  # the inputs may be written over
            if last and own:
                into = own.pop()
            elif free:
                into = free.pop()
            else:
                into, num_slots = num_slots, num_slots + 1
            steps.append((is_maximum, one, other, into))
            where[wire] = into
        free += own
    return Network(tuple(steps), tuple(where[rank] for rank in ranks), num_slots - m)
