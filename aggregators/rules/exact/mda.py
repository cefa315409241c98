"""MDA: the mean of the n - f updates with the least diameter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from aggregators.engine.gram import Gram
from aggregators.engine.rule import Combination, Option, Rule
from aggregators.engine.ties import TIE
from aggregators.rules.exact.subset import Search, average_of
from aggregators.rules.exact.vertex_cover import bits, vertex_cover

if TYPE_CHECKING:
    from torch import Tensor


def mda(gram: Gram, *, f: int, max_nodes: int = 200_000) -> Combination:
    """Average the (n-f)-subset of least diameter, the largest distance between two of its rows.

    Exact. A radius is feasible if f rows can be removed so that no two of the others are farther
    apart: a vertex cover of size f in the graph of pairs that are too far. The least feasible
    radius among the distances is found by bisection, so the time does not grow with the count of
    subsets.

    Several subsets often share the least diameter, in plain Gaussian rows too: whoever lies well
    inside can be exchanged. The lexicographically first of them by client index is taken, as by
    peers that enumerate; distances whose squares are equal to 1e-9 tie.

    Args:
        gram: The clients' Gram.
        f: Clients that may be Byzantine, a count. Needs n >= 2f + 1.
        max_nodes: Most branches of the search, over all radii.

    Returns:
        Weight 1/(n-f) on each selected client. Facts: ``selected`` (by index), ``diameter``,
        ``search_nodes``.

    Raises:
        ValueError: If n < 2f + 1, or the search passes ``max_nodes``.

    Source:
        El-Mhamdi et al. 2020 (minimum-diameter averaging), https://arxiv.org/abs/1905.03853
        Farhadkhani et al. 2022 (its resilience), https://arxiv.org/abs/2205.12173
    """
    n = gram.num_clients
    RULE.check_clients(n, f)
    search = Search("mda", max_nodes, n, f)
    distances = gram.squared_distances()
    everyone = (1 << n) - 1
    radii = _candidates(distances, n - f)
    low, high = 0, len(radii) - 1
    while low < high:
        half = (low + high) // 2
        if vertex_cover(_farther(distances, radii[half]), everyone, f, search) is None:
            low = half + 1
        else:
            high = half
    neighbours = _farther(distances, radii[high] * (1 + TIE))
    cover = vertex_cover(neighbours, everyone, f, search)
    assert cover is not None
    selected = _first_subset(neighbours, cover, f, search)
    diameter = float(distances[selected][:, selected].max().sqrt())
    return average_of(gram, selected, {"diameter": diameter, "search_nodes": float(search.nodes)})


def _candidates(distances: Tensor, count: int) -> list[float]:
    """The squared distances, ascending, that the least diameter of so many rows can have.

    Each row of such a subset has a row of it at least as far away as its (count-1)-th nearest.
    """
    least = distances.sort(dim=1).values[:, count - 1].min()
    return sorted({float(radius) for radius in distances[distances >= least]})


def _farther(distances: Tensor, radius: float) -> list[int]:
    """Of each row, the set of rows at a larger squared distance, as bits."""
    n = len(distances)
    far = torch.zeros(n, (n + 7) // 8 * 8, dtype=torch.uint8)
    far[:, :n] = distances > radius
    places = 2 ** torch.arange(8, dtype=torch.uint8)
    packed = (far.view(n, -1, 8) * places).sum(dim=2, dtype=torch.uint8)
    return [int.from_bytes(bytes(row), "little") for row in packed.tolist()]


def _first_subset(neighbours: list[int], cover: int, f: int, search: Search) -> list[int]:
    """Find the lexicographically first n - f rows of which no two are neighbours.

    Goes through the rows by index and keeps each that can be kept. A known cover answers for the
    rows outside of it.
    """
    n = len(neighbours)
    undecided, spare, kept = (1 << n) - 1, f, 0
    for i in range(n):
        if not undecided >> i & 1:
            continue
        undecided &= ~(1 << i)
        near = neighbours[i] & undecided
        found: int | None = cover & ~near
        if cover >> i & 1:
            found = None
            if near.bit_count() <= spare:
                found = vertex_cover(
                    neighbours, undecided & ~near, spare - near.bit_count(), search
                )
        if found is None:
            cover, spare = cover & ~(1 << i), spare - 1
        else:
            cover, spare = found, spare - near.bit_count()
            undecided, kept = undecided & ~near, kept | 1 << i
    return list(bits(kept))[: n - f]


RULE = Rule(
    name="mda",
    summary="The mean of the n - f updates of least diameter",
    source="El-Mhamdi et al. 2020, https://arxiv.org/abs/1905.03853",
    condition="n >= 2f + 1",
    min_clients=lambda f: 2 * f + 1,
    kind="gram",
    function=mda,
    cost="n² d for the Gram; the search is exponential in f at worst, and limited by max_nodes",
    kappa=(
        "8 f² / (n-f): from its resilience 2f/(n-f) to the honest diameter, whose square is at "
        "most 2 (n-f) times the honest variance"
    ),
    bound=lambda n, f: 8 * f**2 / (n - f),
    reading="exact; of subsets of one diameter the lexicographically first by client index",
    options={
        "max_nodes": Option("Most branches of the exact search", int, 200_000, 1, 1_000_000_000)
    },
)
