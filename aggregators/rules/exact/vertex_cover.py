"""Vertex cover: at most so many vertices that touch every edge, or the proof that there are none.

Sets of vertices are the bits of one Python int: vertex v is ``1 << v``.
"""

from collections.abc import Iterator, Sequence

from aggregators.rules.exact.subset import Search


def bits(mask: int) -> Iterator[int]:
    """Visit the vertices of a set, lowest first."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def vertex_cover(neighbours: Sequence[int], among: int, most: int, search: Search) -> int | None:
    """Find at most ``most`` vertices that touch every edge among some vertices.

    Either a vertex is in the cover, or all its neighbours are: branch on one of most neighbours.
    What is forced is taken before a branch, and a lower bound ends a branch that cannot succeed.

    Args:
        neighbours: Of each vertex, the set of vertices that it has an edge to.
        among: The vertices considered, a set.
        most: The largest size of the cover.
        search: Counts the branches.

    Returns:
        A cover, or None where there is none. The same one for the same arguments.

    Raises:
        ValueError: If the search passes its limit.

    Source:
        Chen, Kanj, Jia 2001 (bounded search tree), https://doi.org/10.1006/jagm.2001.1186
    """
    pending = [(among, most, 0)]
    while pending:
        search.spend()
        reduced = _reduce(neighbours, *pending.pop())
        if reduced is None:
            continue
        left, most, cover = reduced
        if not left:
            return cover
        degrees = [((neighbours[v] & left).bit_count(), -v) for v in bits(left)]
        vertex = -max(degrees)[1]
        near = neighbours[vertex] & left
        if near.bit_count() > 2:  # in a cycle, some smallest cover holds any vertex we like
            pending.append((left & ~near & ~(1 << vertex), most - near.bit_count(), cover | near))
        pending.append((left & ~(1 << vertex), most - 1, cover | 1 << vertex))
    return None


def _reduce(
    neighbours: Sequence[int], left: int, most: int, cover: int
) -> tuple[int, int, int] | None:
    """Take what every cover of this size must hold; None if there is no such cover.

    A vertex with more neighbours than the cover may hold is in it. Of a vertex with one
    neighbour, that neighbour may as well be in it. A vertex without edges is not.
    """
    while most >= 0:
        degrees = {v: (neighbours[v] & left).bit_count() for v in bits(left)}
        forced = sum(1 << v for v, degree in degrees.items() if degree > most)
        if not forced:
            for v, degree in degrees.items():
                if degree == 0:
                    left &= ~(1 << v)
            forced = next((neighbours[v] & left for v, degree in degrees.items() if degree == 1), 0)
        if not forced:
            return None if _least_size(neighbours, left) > most else (left, most, cover)
        left, most, cover = left & ~forced, most - forced.bit_count(), cover | forced
    return None


def _least_size(neighbours: Sequence[int], left: int) -> int:
    """Bound a cover from below: of each clique all vertices but one are in it."""
    least = 0
    while left:
        vertex = (left & -left).bit_length() - 1
        left &= ~(1 << vertex)
        near = neighbours[vertex] & left
        while near:
            vertex = (near & -near).bit_length() - 1
            left &= ~(1 << vertex)
            near &= neighbours[vertex]
            least += 1
    return least
