"""From a change in product space back to factors of rank r; the energy cut off is reported."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from aggregators.engine.rows import Rows, one_thread
from aggregators.geometry.clients import Change, check_alike, check_points, gather
from aggregators.geometry.gauge import check_full_rank
from aggregators.geometry.layout import (
    Factors,
    LowRank,
    Module,
    Pair,
    check_row,
    write,
    write_plain,
)
from aggregators.geometry.readout import Gauge, linear_step, read_out
from aggregators.geometry.spectrum import spectrum

if TYPE_CHECKING:
    from torch import Tensor

Energies = tuple[float, float, float]

_SEEN = 1e-8  # of the target's energy: a change above it is known to seven digits from the whole
_ROUNDING = 1e-14  # of the sides' norms: a tail below it is what float64 cannot tell from nothing


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A new row, and the part of the change that did not fit into its rank.

    Attributes:
        row: The new factors (not a delta), shape (d,), dtype and device of the anchor.
        discarded: Share of the target's energy that was cut off: |tail|² / |target|² over all
            modules, the target being the anchor's product plus the change. 0 of a zero target.
        discarded_of_change: |tail|² / |change|²: the share of the update that was lost.
        residual: The tail, for the next round's ``carry``; its plain columns are zero.
    """

    row: Tensor
    discarded: float
    discarded_of_change: float
    residual: LowRank


def combine_products(
    rows: Rows,
    anchors: Tensor | Sequence[Tensor],
    factors: Factors | Sequence[Factors],
    weights: Tensor,
    *,
    anchor: Tensor,
    target: Factors,
    carry: LowRank | None = None,
    gauge: Gauge = "anchor",
    residual_rank: int | None = None,
) -> Step:
    """Move the anchor by sum w_i P_i, exactly, and bring it back to its rank.

    Never forms a d_out x d_in matrix: per module the stacks, (d_out, q) and (q, d_in) with q the
    sum of the ranks of the clients that count plus one anchor's, and what `spectrum` makes of them.

    Args:
        rows: n delta rows; of different lengths where ranks differ.
        anchors: The anchor that all received, or one per client.
        factors: The description of all rows, or one per client.
        weights: Shape (n,), any sum: the rest is "no change". Rows of weight zero are never read.
        anchor: The server's own row, shape (d,).
        target: Its description; the new row has the same.
        carry: The residual of the last round, one more term of weight one.
        gauge: As in ``step``.
        residual_rank: As in ``step``.

    Returns:
        The new row, the discarded shares and the residual.

    Raises:
        ValueError: As ``step``, and if counts or shapes do not fit.

    Source:
        Bai et al. 2024 (FlexLoRA: SVD of the mean product), https://arxiv.org/abs/2402.11505
    """
    clients = gather(rows, anchors, factors)
    check_alike(clients[0].factors, target, "rows")
    if carry is not None:
        check_points([carry], target, "carry")
    carried = [] if carry is None else [carry]
    change = Change(clients, weights, extra=carried, extra_weights=[1.0] * len(carried))
    pairs = (change.pair(k) for k in range(len(change)))
    return step_by_module(
        anchor, target, pairs, change.plain, gauge=gauge, residual_rank=residual_rank
    )


def step(
    anchor: Tensor,
    factors: Factors,
    change: LowRank,
    *,
    gauge: Gauge = "anchor",
    residual_rank: int | None = None,
) -> Step:
    """Add a change to an anchor in product space and truncate to the anchor's rank.

    Among the (B, A) with the best product, gauge ``anchor`` writes the A nearest to the anchor's
    that has the same A Aᵀ. Where the row space stays, A stays; A keeps its scale and condition for
    ever, so that the clients' optimizers meet what they were tuned for. It breaks where the
    anchor's A has lost a direction (refused). FedSVD's orthonormal A is this gauge started from an
    orthonormal A. Gauge ``balanced`` splits the singular values evenly. It has no memory and needs
    no anchor of full rank, but A shrinks to the size of the update, and a direction of small
    singular value has small B and small A, hence small gradients. See ``read_out``.

    A module in which nothing changes comes back bit for bit, and so does a factor that nobody
    moved. With one factor fixed the other takes the least-squares fit.

    Args:
        anchor: The row to start from, shape (d,).
        factors: Its description.
        change: What to add; its plain columns are added as they are.
        gauge: ``anchor`` or ``balanced``.
        residual_rank: Most rank of the residual per module, None for all of it. Its largest
            singular values are kept; the shares count the whole tail.

    Returns:
        The new row, the discarded shares and the residual.

    Raises:
        ValueError: If shapes do not fit, an option is not one that there is, or the anchor's A has
            not full rank in gauge ``anchor``.
    """
    check_points([change], factors, "change")
    return step_by_module(
        anchor, factors, change.pairs, change.plain, gauge=gauge, residual_rank=residual_rank
    )


def step_by_module(
    anchor: Tensor,
    factors: Factors,
    pairs: Iterable[Pair],
    plain: Tensor,
    *,
    gauge: Gauge = "anchor",
    residual_rank: int | None = None,
) -> Step:
    """``step`` on pairs that may be made one at a time, each dropped before the next is made."""
    check_row(anchor, factors, "the anchor")
    if gauge not in ("anchor", "balanced"):
        raise ValueError(f"gauge needs to be anchor or balanced: got {gauge!r}; name one of them")
    if residual_rank is not None and residual_rank < 0:
        raise ValueError(
            f"residual_rank needs to be >= 0 or None: got {residual_rank}; 0 carries nothing"
        )
    row = anchor.detach().clone()
    tails: list[Pair] = []
    energies = [(0.0, 0.0, 0.0)]
    with one_thread():
        for k, (module, pair) in enumerate(zip(factors.modules, pairs, strict=True)):
            tail, shares = _settle(row, module, pair, gauge, k, residual_rank)
            energies.append(shares)
            tails.append(tail if residual_rank is None else _leading(tail, residual_rank))
    if plain.any():
        write_plain(row, factors, factors.plain_of(anchor).to(torch.float64) + plain)
    tail_energy, target_energy, change_energy = map(math.fsum, zip(*energies, strict=True))
    return Step(
        row,
        tail_energy / target_energy if target_energy > 0 else 0.0,
        tail_energy / change_energy if change_energy > 0 else 0.0,
        LowRank(tuple(tails), torch.zeros_like(plain)),
    )


def _settle(
    row: Tensor, module: Module, change: Pair, gauge: Gauge, k: int, residual_rank: int | None
) -> tuple[Pair, Energies]:
    """Overwrite one module of a row by the best approximation of its rank.

    Returns:
        What was cut off, to the residual's rank at least, and the energies of all that was cut off,
        of the target and of the change.
    """
    b, a = module.factors(row)
    nothing, own = (b[:, :0], a[:0]), (module.scale * b, a)
    if not (change[0].any() and change[1].any()):
        return nothing, (0.0, _energy(own), 0.0)
    target = torch.cat([own[0], change[0]], dim=1), torch.cat([a, change[1]])
    new = linear_step(module, b, a, change)
    if new is not None:
        write(row, module, *new)
        tail = nothing
        if module.a is None or module.b is None:
            left = torch.cat([target[0], -module.scale * new[0]], dim=1)
            found = spectrum(left, torch.cat([target[1], new[1]]))
            least = _ROUNDING * float(target[0].norm() * target[1].norm())
            tail = found.pair(0, int((found.values > least).sum()))
        return tail, (_energy(tail), _energy(target), _energy(change))
    if gauge == "anchor":
        check_full_rank(a, k)
    most = None if residual_rank is None else module.rank + residual_rank
    found = spectrum(*target, most)
    whole = found.energy()
    moved = _energy_of_change(whole, target, own, change)  # of what the row is before it is written
    write(row, module, *read_out(found, module, a, gauge, row.dtype))
    return found.pair(module.rank), (found.energy(module.rank), whole, moved)


def _energy_of_change(whole: float, target: Pair, own: Pair, change: Pair) -> float:
    """|target - own|², from the small products of |target|² - 2 <target, own> + |own|².

    Of a change below 1e-4 of the target this would be the rounding of the two: it is squared
    itself.
    """
    shared = float(((target[0].T @ own[0]) * (target[1] @ own[1].T)).sum())
    found = whole - 2 * shared + _energy(own)
    return found if found > _SEEN * whole else _energy(change)


def _leading(tail: Pair, rank: int) -> Pair:
    """The leading triples: a tail stands in descending order."""
    return tail[0][:, :rank].clone(), tail[1][:rank].clone()


def _energy(pair: Pair) -> float:
    return LowRank((pair,), pair[0].new_zeros(0)).squared_norm()


def receive(anchor: Tensor, factors: Factors, client: Factors) -> Tensor:
    """The row that a client of lower ranks starts from: the best approximation of its ranks.

    Its A is the one nearest to the leading rows of the anchor's A with their Gram matrix, as in
    gauge ``anchor``; while B is zero it is those rows, bit for bit. The scales may differ. What is
    cut off is no one's update: the client's change is measured from the row that it received.

    Args:
        anchor: The server's own row, shape (d,).
        factors: Its description.
        client: The client's description: the same modules, no rank higher.

    Returns:
        The client's row, dtype and device of the anchor.

    Raises:
        ValueError: If a rank is higher, a module has a fixed factor, or shapes do not fit.
    """
    check_row(anchor, factors, "the anchor")
    check_alike(client, factors, "the client's row")
    row = torch.empty(client.num_columns, dtype=anchor.dtype, device=anchor.device)
    write_plain(row, client, factors.plain_of(anchor))
    with one_thread():
        for k, (own, module) in enumerate(zip(client.modules, factors.modules, strict=True)):
            if own.rank > module.rank or None in (own.a, own.b, module.a, module.b):
                raise ValueError(
                    f"module {k} needs both factors trained and a rank up to {module.rank}: got "
                    f"rank {own.rank}; lower the client's rank, or train both factors"
                )
            b, a = module.factors(anchor)
            if own.rank == module.rank:
                write(row, own, b * (module.scale / own.scale), a)
                continue
            leading = a[: own.rank]
            if not b.any():
                write(row, own, b[:, : own.rank], leading)
                continue
            check_full_rank(leading, k)
            found = spectrum(module.scale * b, a, own.rank)
            write(row, own, *read_out(found, own, leading, "anchor", anchor.dtype))
    return row
