"""Branch and bound: which rows to remove so that the others have the least sum of distances.

Removing rows lowers the sum over pairs by what each has in all, less what is then counted twice,
the distances between the removed. Half of the q least distances of a row are a lower bound on its
part in that, where q more are removed with it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from aggregators.engine.ties import TIE
from aggregators.rules.exact.subset import Search

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Rows that may be removed, in the order in which they are tried.

    Attributes:
        rows: Their indices, those that lower the sum most first.
        distances: Between them, in that order.
        half_nearest: ``half_nearest[q][u]``: half of u's q least distances to others.
    """

    rows: list[int]
    distances: list[list[float]]
    half_nearest: list[list[float]]


@dataclass(slots=True)
class _Best:
    """The best removal so far.

    Attributes:
        sum: What it leaves, over pairs.
        removed: Row indices.
        first_will_do: Whether to end at the first removal that ties with it.
        tied: Whether another one tied with it.
    """

    sum: float
    removed: set[int]
    first_will_do: bool = False
    tied: bool = False

    def ceiling(self) -> float:
        """Sums beyond this one are of no more interest."""
        if self.tied and (self.first_will_do or self.sum == 0):
            return -1.0
        return self.sum * (1 - TIE if self.tied else 1 + TIE)

    def compare(self, sum: float, removed: set[int]) -> None:
        """Take another removal if it is better, note it if it ties."""
        if sum < self.sum * (1 - TIE):
            self.sum, self.removed, self.tied = sum, removed, False
        elif sum <= self.ceiling() and removed != self.removed:
            self.tied = True
            if self.first_will_do:
                self.removed = removed


def best_removal(distances: Tensor, guess: Sequence[int], search: Search) -> list[int]:
    """Choose as many rows as the guess has, so that the sum over pairs of the others is least.

    Args:
        distances: Squared distances between the rows, shape (n, n), of like size: the largest
            must not swallow the digits of the sum.
        guess: A good removal, row indices.
        search: Counts the branches.

    Returns:
        Row indices, ascending. Of removals that tie, the one that leaves the lexicographically
        first rows.

    Raises:
        ValueError: If the search passes its limit.
    """
    everyone = list(range(len(distances)))
    left = [i for i in everyone if i not in set(guess)]
    best = _Best(float(distances[left][:, left].sum()) / 2, set(guess))
    _solve(distances, [], everyone, best, search)
    return sorted(_first_of_tied(distances, best, search) if best.tied else best.removed)


def _first_of_tied(distances: Tensor, best: _Best, search: Search) -> set[int]:
    """Keep each row, by index, that some removal as good as the best keeps."""
    removed, forced = best.removed, list[int]()
    free = list(range(len(distances)))
    for i in range(len(distances)):
        free.remove(i)
        if i in removed:
            other = _Best(best.sum, removed, first_will_do=True)
            if len(forced) + len(free) >= len(removed):
                _solve(distances, forced, free, other, search)
            if other.removed is removed:
                forced.append(i)
            removed = other.removed
    return removed


def _solve(
    distances: Tensor, forced: list[int], free: list[int], best: _Best, search: Search
) -> None:
    """Search the removals of all forced and some free rows for a better one."""
    count = len(best.removed) - len(forced)
    if count == 0:
        best.compare(_left_over(distances, forced), set(forced))
        return
    lowers = (distances.sum(dim=1) - distances[:, forced].sum(dim=1)).tolist()
    rows = sorted(free, key=lambda i: (-lowers[i], -i))
    between = distances[rows][:, rows]
    nearest = between.sort(dim=1).values.cumsum(dim=1).T / 2  # the first is to itself: 0
    candidates = _Candidates(rows, between.tolist(), nearest[:count].tolist())
    lowered = [lowers[i] for i in rows]
    _branch(candidates, lowered, _left_over(distances, forced), forced, count, 0, best, search)


def _left_over(distances: Tensor, removed: list[int]) -> float:
    """The sum over the pairs that a removal leaves."""
    left = torch.ones(len(distances), dtype=torch.float64)
    left[removed] = 0
    return float(left @ distances @ left) / 2


def _branch(
    candidates: _Candidates,
    lowers: list[float],
    left_over: float,
    chosen: list[int],
    more: int,
    start: int,
    best: _Best,
    search: Search,
) -> None:
    """Remove so many more of the candidates from a place on, if that can still be best.

    Args:
        candidates: The candidates.
        lowers: What removing each lowers the sum by, after the chosen.
        left_over: The sum that the chosen leave.
        chosen: Rows already removed.
        more: How many to remove.
        start: The first place to remove from.
        best: Updated.
        search: Counts the branches.
    """
    search.spend()
    half = candidates.half_nearest[more - 1]
    worth = [lowers[u] - half[u] for u in range(start, len(lowers))]
    rest = _tops_after(worth, more - 1)
    for u in range(start, len(lowers) - more + 1):
        if left_over - worth[u - start] - rest[u - start] > best.ceiling():
            continue
        removed, after = [*chosen, candidates.rows[u]], left_over - lowers[u]
        if more == 1:
            best.compare(after, set(removed))
            continue
        fewer = [a - b for a, b in zip(lowers, candidates.distances[u], strict=True)]
        _branch(candidates, fewer, after, removed, more - 1, u + 1, best, search)


def _tops_after(values: list[float], count: int) -> list[float]:
    """Of each place, the sum of the ``count`` greatest values after it; -inf where too few."""
    sums, heap, total = [0.0] * len(values), list[float](), 0.0
    for place in range(len(values) - 1, -1, -1):
        sums[place] = total if len(heap) == count else -math.inf
        if len(heap) < count:
            heapq.heappush(heap, values[place])
            total += values[place]
        elif count and values[place] > heap[0]:
            total += values[place] - heapq.heapreplace(heap, values[place])
    return sums
