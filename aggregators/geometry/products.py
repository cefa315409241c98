"""Inner products of s (B_i A_i - B A) from r x r pieces: never a d_out x d_in matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from aggregators.engine.gram import Gram
from aggregators.engine.rows import Rows, one_thread
from aggregators.geometry.clients import Client, by_anchor, check_finite, check_points, gather
from aggregators.geometry.gauge import turn
from aggregators.geometry.layout import Factors, LowRank, Module, Pair

if TYPE_CHECKING:
    from torch import Tensor

_FAR = 0.5  # of |A|: beyond it a client's factors are brought near before they are subtracted
_WORST = 1e6  # a change of gauge of a worse condition would cost the digits that it saves
_BLOCK_VALUES = 1 << 20
_WIDTH = 1024  # of a block of stacked factors


@dataclass(frozen=True, slots=True, eq=False)
class _Term:
    """The matrix scale ((B + left)(A + right) - B A) of one point, (B, A) the base.

    Left and right are differences, made only where a block of them is needed.
    """

    point: int
    scale: float
    left: Pair
    right: Pair
    base: int | None


def product_gram(
    rows: Rows,
    anchors: Tensor | Sequence[Tensor],
    factors: Factors | Sequence[Factors],
    *,
    extra: Sequence[LowRank] = (),
) -> Gram:
    """Compute the Gram matrix of the clients' changes in product space; the origin is "no change".

    <B1 A1, B2 A2> = sum((B1ᵀ B2) * (A1 A2ᵀ)), so a module costs two products of stacked factors,
    (d_out, R) and (R, d_in) with R the sum of all ranks, and work on R x R. The stacks hold
    *moves*, not factors: with B_i = B + dB_i and A_i = A + dA_i a change is
    s (dB_i A_i + B dA_i), where nothing as large as BA is ever subtracted. Small updates of a large
    anchor keep their digits (K of the factors and C K Cᵀ would lose eps |BA|² / |P|²).

    Where all clients received the same anchor object, moves are taken from the client of median
    norm instead, as ``gram`` does, so that a common offset is not subtracted either. A client whose
    A is more than half of |A| away is first brought to the anchor's gauge, where it can be: its
    product stays and its moves become small.

    Args:
        rows: n delta rows; of different lengths where ranks differ. Finite, as screened.
        anchors: The anchor that all received, shape (d,), or one per client. Clients that share
            the object share its terms.
        factors: The description of all rows, or one per client; only ranks, scales and columns
            may differ.
        extra: More points, such as centered clipping's centre, placed after the clients.

    Returns:
        The Gram, on the CPU. The same bits whatever the number of threads.

    Raises:
        ValueError: If counts or shapes do not fit, or an inner product is not finite.
    """
    clients = gather(rows, anchors, factors)
    check_points(extra, clients[0].factors, "extra")
    groups = by_anchor(clients)
    n, slots = len(clients), len(clients) + 1 + len(extra)
    squares = check_finite(clients)
    reference = None
    if len(groups) == 1:
        reference = int(squares.sort(stable=True).indices[(n - 1) // 2])
    total = torch.zeros(slots, slots, dtype=torch.float64)
    with one_thread():
        total += _plain_gram(clients, extra, reference)
        for k in range(len(clients[0].factors.shapes)):
            total += _module_gram(clients, groups, extra, reference, k)
        points = _points(n, len(extra), reference)
        centred = points @ total @ points.T
    return Gram((centred + centred.T) / 2, n)


def _points(n: int, num_extra: int, reference: int | None) -> Tensor:
    """From (clients, origin, extra) as measured to (clients, extra, origin) about one reference.

    An extra point is measured from the origin, and the origin from the reference.
    """
    points = torch.zeros(n + num_extra + 1, n + 1 + num_extra, dtype=torch.float64)
    points[:n, :n] = torch.eye(n)
    points[n:-1, n + 1 :] = torch.eye(num_extra)
    points[n:, n] = 0.0 if reference is None else 1.0
    return points


def _plain_gram(clients: Sequence[Client], extra: Sequence[LowRank], start: int | None) -> Tensor:
    rows = [client.factors.plain_of(client.delta) for client in clients]
    return _flat_gram([*rows, None, *(point.plain for point in extra)], len(rows), start)


def _flat_gram(vectors: Sequence[Tensor | None], n: int, reference: int | None) -> Tensor:
    """Inner products of n vectors and the origin about a reference, and of extra ones as given."""
    first = next(vector for vector in vectors if vector is not None)
    total = torch.zeros(len(vectors), len(vectors), dtype=torch.float64, device=first.device)
    width = max(1024, _BLOCK_VALUES // len(vectors))
    for begin in range(0, first.numel(), width):
        block = torch.zeros(
            len(vectors), len(first[begin : begin + width]), dtype=total.dtype, device=total.device
        )
        for i, vector in enumerate(vectors):
            if vector is not None:
                block[i] = vector[begin : begin + width]
        if reference is not None:
            block[: n + 1] -= block[reference].clone()
        total += block @ block.T
    return total.cpu()


def _module_gram(
    clients: Sequence[Client],
    groups: Sequence[Sequence[int]],
    extra: Sequence[LowRank],
    reference: int | None,
    k: int,
) -> Tensor:
    """Inner products of one module over (clients, origin, extra)."""
    module = clients[0].factors.modules[k]
    one_sided = module.a is None or module.b is None
    if len(groups) == 1 and one_sided and not extra:
        lines = _lines(module, clients)
        return _flat_gram([*lines, None], len(lines), reference)
    bases: list[Pair] = []
    terms: list[_Term] = []
    for base, group in enumerate(groups):
        own = clients[group[0]].factors.modules[k]
        b, a = own.factors(clients[group[0]].anchor)
        start, members = (torch.zeros_like(b), torch.zeros_like(a)), list(group)
        if reference is not None:
            db, da = own.moves(clients[reference].delta)
            start = start[0] if db is None else db, start[1] if da is None else da
            members[reference] = len(clients)  # itself no move; the origin is one
        near = b + start[0], a + start[1]
        bases.append(near)
        for i in members:
            delta = clients[i].delta if i < len(clients) else None
            left, right = _moves_from(own, delta, start, near)
            terms.append(_Term(i, own.scale, left, right, base))
    first = len(clients) + 1
    for e, point in enumerate(extra):
        own_left, own_right = point.pairs[k]
        from_left, from_right = torch.zeros_like(own_left), torch.zeros_like(own_right)
        terms.append(_Term(first + e, 1.0, (own_left, from_left), (own_right, from_right), None))
    return _terms_gram(terms, bases, first + len(extra)).cpu()


def _lines(module: Module, clients: Sequence[Client]) -> list[Tensor]:
    """Vectors with the inner products of s dB A (or s B dA): s dB Rᵀ where Aᵀ = Q R."""
    b, a = module.factors(clients[0].anchor)
    moves = [module.moves(client.delta) for client in clients]
    if module.a is None:
        r = module.scale * torch.linalg.qr(a.T, mode="r").R
        return [(db @ r.T).flatten() for db, _ in moves if db is not None]
    r = module.scale * torch.linalg.qr(b, mode="r").R
    return [(r @ da).flatten() for _, da in moves if da is not None]


def _moves_from(module: Module, delta: Tensor | None, start: Pair, base: Pair) -> tuple[Pair, Pair]:
    """Moves of a client (of the origin, without delta) from a base that is itself a move away.

    Each as the two whose difference it is. A client whose A is far from the base's is first
    brought to the base's gauge.
    """
    db, da = (None, None) if delta is None else module.views(delta)
    none_b, none_a = torch.zeros_like(start[0]), torch.zeros_like(start[1])
    moved = (none_b if db is None else db, start[0]), (none_a if da is None else da, start[1])
    if db is None or da is None or (da - start[1]).norm() <= _FAR * base[1].norm():
        return moved
    turned = turn(base[0] + (db - start[0]), base[1] + (da - start[1]), base[1])
    if turned is None or turned.condition > _WORST:
        return moved
    return (turned.b, base[0]), (turned.a, base[1])


def _terms_gram(terms: Sequence[_Term], bases: Sequence[Pair], slots: int) -> Tensor:
    """Sum the inner products of the terms into those of their points, shape (slots, slots).

    A term is L A' + B R with L, R its moves, (B, A) its base and A' = A + R. The Gram of the right
    stack holds R Rᵀ, R Aᵀ and A Aᵀ, from which those of A' are added up on R x R.
    """
    ranks = [len(term.right[0]) for term in terms]
    lefts = _inner([term.left for term in terms], [left for left, _ in bases], 1)
    rights = _inner([term.right for term in terms], [right for _, right in bases], 0)
    k, device = sum(ranks), lefts.device
    starts, end = [], k
    for left, _ in bases:
        starts.append(end)
        end += left.shape[1]
    own = torch.cat(
        [
            torch.arange(rank) + starts[term.base]
            if term.base is not None
            else torch.full((rank,), end)  # the zero column that _inner leaves at the end
            for term, rank in zip(terms, ranks, strict=True)
        ]
    ).to(device)
    left_base, right_base = lefts[:k][:, own], rights[:k][:, own]
    to_base = rights[:k, :k] + right_base.T
    full = to_base + right_base + rights[own][:, own]
    total = lefts[:k, :k] * full
    mixed = left_base * to_base
    total += mixed + mixed.T
    total += lefts[own][:, own] * rights[:k, :k]
    member = torch.zeros(slots, k, dtype=torch.float64, device=device)
    points = torch.tensor([term.point for term in terms]).repeat_interleave(torch.tensor(ranks))
    scales = torch.tensor([term.scale for term in terms], dtype=torch.float64)
    scales = scales.repeat_interleave(torch.tensor(ranks)).to(device)
    member[points.to(device), torch.arange(k, device=device)] = scales
    return member @ total @ member.T


def _inner(moves: Sequence[Pair], bases: Sequence[Tensor], axis: int) -> Tensor:
    """Inner products of the columns (axis 1) or rows (axis 0) of moves and bases, stacked.

    One row and column of zeros comes after them. The stack is made in blocks that stay in a cache,
    and only the upper half is computed, in three stripes: two thirds of the work.
    """
    parts = [*moves, *((base, None) for base in bases)]
    size, length = sum(part.shape[axis] for part, _ in parts), bases[0].shape[1 - axis]
    gram = torch.zeros(size + 1, size + 1, dtype=torch.float64, device=bases[0].device)
    stripe = -(-size // 3)
    for begin in range(0, length, _WIDTH):
        width, first = min(_WIDTH, length - begin), 0
        stack = gram.new_empty((size, width) if axis == 0 else (width, size))
        for part, start in parts:
            out = stack.narrow(axis, first, part.shape[axis])
            first += part.shape[axis]
            cut = part.narrow(1 - axis, begin, width)
            if start is None:
                out.copy_(cut)
            else:
                torch.sub(cut, start.narrow(1 - axis, begin, width), out=out)
        stack = stack if axis == 0 else stack.T
        for top in range(0, size, stripe):
            rows = stack[top : top + stripe]
            gram[top : top + len(rows), top:size].addmm_(rows, stack[top:].T)
    for top in range(0, size, stripe):
        below = min(top + stripe, size)
        gram[below:size, top:below] = gram[top:below, below:size].T
    return gram
