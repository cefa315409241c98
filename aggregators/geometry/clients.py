"""The clients of a round in product space: each with its delta, its anchor and its ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from aggregators.engine.rows import Rows, one_thread, squared_norms
from aggregators.geometry.layout import Factors, LowRank, Pair, check_row

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Client:
    """One client's delta, with the anchor that it started from.

    Attributes:
        delta: local - anchor, shape (d_i,).
        anchor: The row that this client received, shape (d_i,).
        factors: The description of both.
    """

    delta: Tensor
    anchor: Tensor
    factors: Factors


def gather(
    rows: Rows, anchors: Tensor | Sequence[Tensor], factors: Factors | Sequence[Factors]
) -> list[Client]:
    """Put each client's row, anchor and description together.

    Args:
        rows: n delta rows; of one length where all clients have the same ranks.
        anchors: The anchor that all received, shape (d,), or one per client.
        factors: The description of all rows, or one per client.

    Raises:
        ValueError: If counts differ, a row does not fit its description, or two descriptions are
            not of the same modules.
    """
    n = len(rows)
    received = (
        [anchors] * n if isinstance(anchors, torch.Tensor) and anchors.ndim == 1 else list(anchors)
    )
    described = [factors] * n if isinstance(factors, Factors) else list(factors)
    if n == 0 or len(received) != n or len(described) != n:
        raise ValueError(
            f"needs one anchor and one description per client, or one for all: got {n} rows, "
            f"{len(received)} anchors, {len(described)} descriptions"
        )
    for i, (row, anchor, each) in enumerate(zip(rows, received, described, strict=True)):
        check_row(row, each, f"row {i}")
        check_row(anchor, each, f"the anchor of row {i}")
        check_alike(each, described[0], f"row {i}")
    return [Client(r.detach(), a, d) for r, a, d in zip(rows, received, described, strict=True)]


def check_alike(one: Factors, other: Factors, name: str) -> None:
    """Refuse descriptions that are not of the same modules, ranks aside."""
    if one is not other and (one.shapes != other.shapes or one.num_plain != other.num_plain):
        raise ValueError(
            f"{name} needs modules of the shapes {other.shapes[:4]} and {other.num_plain} plain "
            f"columns: got {one.shapes[:4]} and {one.num_plain}; only ranks may differ"
        )


def check_points(points: Sequence[LowRank], factors: Factors, name: str) -> None:
    """Refuse points of another product space."""
    for point in points:
        shapes = tuple((left.shape[0], right.shape[1]) for left, right in point.pairs)
        if shapes != factors.shapes or point.plain.shape != (factors.num_plain,):
            raise ValueError(
                f"{name} needs a point over modules {factors.shapes[:4]} and {factors.num_plain} "
                f"plain columns: got {shapes[:4]} and {tuple(point.plain.shape)}"
            )


def check_finite(clients: Sequence[Client]) -> Tensor:
    """Refuse rows that are not finite or have squares that overflow; return squared norms."""
    squares = torch.cat([squared_norms([client.delta]) for client in clients])
    bad = (~squares.isfinite()).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"updates needs finite values and squared norms: got inf, nan or an overflow in rows "
            f"{bad}; reject these clients before aggregating"
        )
    return squares


def by_anchor(clients: Sequence[Client]) -> list[list[int]]:
    """Group the clients who received the same anchor object, in order of first appearance."""
    groups: dict[tuple[int, int], list[int]] = {}
    for i, client in enumerate(clients):
        groups.setdefault((id(client.anchor), id(client.factors)), []).append(i)
    return list(groups.values())


def change(client: Client, k: int) -> Pair:
    """The change of one client in module k, s (B_i A_i - B A), as a pair of rank 2r at most."""
    module = client.factors.modules[k]
    b, a = module.factors(client.anchor)
    db, da = module.moves(client.delta)
    terms: list[Pair] = []
    if db is not None:
        terms.append((module.scale * db, a if da is None else a + da))
    if da is not None:
        terms.append((module.scale * b, da))
    return torch.cat([left for left, _ in terms], dim=1), torch.cat([right for _, right in terms])


class Change:
    """Sum w_i P_i, exactly, module by module: all modules' stacks at once would be n x d.

    With B_i = B + dB_i and A_i = A + dA_i it is s (sum w_i dB_i A_i + B sum w_i dA_i): the rank is
    the sum of the clients' ranks plus one anchor's. Nothing large is subtracted. Where nobody who
    counts moved A it is s (sum w_i dB_i) A, of rank r, and bit for bit the factors' own sum.

    Args:
        clients: As gathered.
        weights: One per client, any sum. A client of weight zero is never read.
        extra: Further points, such as centered clipping's centre.
        extra_weights: One per further point.
    """

    def __init__(
        self,
        clients: Sequence[Client],
        weights: Tensor,
        *,
        extra: Sequence[LowRank] = (),
        extra_weights: Sequence[float] = (),
    ) -> None:
        if weights.shape != (len(clients),):
            raise ValueError(
                f"needs one weight per client: got {len(clients)} clients and weights of shape "
                f"{tuple(weights.shape)}"
            )
        shares = weights.tolist()
        self._groups = [
            [(clients[i], shares[i]) for i in group if shares[i] != 0]
            for group in by_anchor(clients)
        ]
        self._extra = [each for each in zip(extra, extra_weights, strict=True) if each[1] != 0]
        self._shapes = clients[0].factors.shapes
        factors, device = clients[0].factors, clients[0].anchor.device
        plain = torch.zeros(factors.num_plain, dtype=torch.float64, device=device)
        for client, share in (pair for group in self._groups for pair in group):
            plain.add_(client.factors.plain_of(client.delta).to(torch.float64), alpha=share)
        for point, weight in self._extra:
            plain.add_(point.plain, alpha=weight)
        self._plain = plain

    @property
    def plain(self) -> Tensor:
        """The plain columns' sum, shape (w,), float64."""
        return self._plain

    def __len__(self) -> int:
        """How many modules there are."""
        return len(self._shapes)

    def pair(self, k: int) -> Pair:
        """Module k's sum, made now."""
        d_out, d_in = self._shapes[k]
        with one_thread():
            terms = [term for group in self._groups if group for term in _terms(group, k)]
            terms += [(w * point.pair(k)[0], point.pair(k)[1]) for point, w in self._extra]
            lefts = [left for left, _ in terms] or [self._plain.new_zeros(d_out, 0)]
            rights = [right for _, right in terms] or [self._plain.new_zeros(0, d_in)]
            return torch.cat(lefts, dim=1), torch.cat(rights)


def combined_change(clients: Sequence[Client], weights: Tensor) -> LowRank:
    """``Change`` with all its modules made: for few clients, or few modules."""
    change = Change(clients, weights)
    return LowRank(tuple(change.pair(k) for k in range(len(change))), change.plain)


def _terms(group: Sequence[tuple[Client, float]], k: int) -> list[Pair]:
    """The terms of module k of clients who share one anchor; none where nothing moved."""
    module = group[0][0].factors.modules[k]
    b, a = module.factors(group[0][0].anchor)
    sum_b, sum_a = torch.zeros_like(b), torch.zeros_like(a)
    moved: list[Pair] = []
    for client, share in group:
        db, da = module.moves(client.delta)
        if da is not None and bool(da.any()):
            sum_a.add_(da, alpha=share)
            if db is not None and bool(db.any()):
                moved.append((share * module.scale * db, a + da))
        elif db is not None:
            sum_b.add_(db, alpha=share)
    if bool(sum_b.any()):
        moved.append((module.scale * sum_b, a))
    if bool(sum_a.any()):
        moved.append((module.scale * b, sum_a))
    return moved
