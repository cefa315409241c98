"""A coordinate rule on the products themselves, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from aggregators.engine.rows import Rows, one_thread
from aggregators.geometry.clients import Client, change, check_alike, check_points, gather
from aggregators.geometry.layout import Factors, LowRank, Pair
from aggregators.geometry.readout import Gauge
from aggregators.geometry.recompress import Step, step_by_module

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK_VALUES = 1 << 22  # 32 MB of float64 for all clients' block together


def combine_dense(
    rows: Rows,
    anchors: Tensor | Sequence[Tensor],
    factors: Factors | Sequence[Factors],
    column_rule: Callable[[Tensor], Tensor],
    *,
    anchor: Tensor,
    target: Factors,
    carry: LowRank | None = None,
    gauge: Gauge = "anchor",
    residual_rank: int | None = None,
) -> Step:
    """Run a coordinate rule on every entry of s (B_i A_i - B A), then bring the result to rank r.

    The one meaning of a coordinate rule that no gauge touches. Its cost is that of the dense
    matrices: n d_out d_in values pass through the rule in blocks of rows of d_out, the result of
    one module at a time is held whole, in float64, and its SVD is O(d_out d_in min(d_out, d_in)).
    The result has full rank in general, so more is cut off than of a weighted sum.

    Args:
        rows: n delta rows; of different lengths where ranks differ.
        anchors: The anchor that all received, or one per client.
        factors: The description of all rows, or one per client.
        column_rule: Takes a float64 block (n, w), returns the aggregate's values (w,). It also
            gets the plain columns.
        anchor: The server's own row, shape (d,).
        target: Its description; the new row has the same.
        carry: The residual of the last round, added to the rule's result.
        gauge: As in ``step``.
        residual_rank: As in ``step``. The residual of a dense result may have rank
            min(d_out, d_in) otherwise.

    Returns:
        The new row, the discarded shares and the residual.
    """
    clients = gather(rows, anchors, factors)
    check_alike(clients[0].factors, target, "rows")
    if carry is not None:
        check_points([carry], target, "carry")
    flat = torch.stack([c.factors.plain_of(c.delta).to(torch.float64) for c in clients])
    with one_thread():
        plain = column_rule(flat) if flat.shape[1] else flat[0]
    if carry is not None:
        plain = plain + carry.plain
    return step_by_module(
        anchor,
        target,
        _changes(clients, column_rule, carry),
        plain,
        gauge=gauge,
        residual_rank=residual_rank,
    )


def _changes(
    clients: Sequence[Client], column_rule: Callable[[Tensor], Tensor], carry: LowRank | None
) -> Iterator[Pair]:
    """Make each module's dense result, as a pair with the identity on its shorter side."""
    for k, (d_out, d_in) in enumerate(clients[0].factors.shapes):
        result = _dense_result(clients, k, column_rule)
        if carry is not None:
            result += carry.pairs[k][0] @ carry.pairs[k][1]
        unit = torch.eye(min(d_out, d_in), dtype=result.dtype, device=result.device)
        yield (result, unit) if d_in <= d_out else (unit, result)


def _dense_result(
    clients: Sequence[Client], k: int, column_rule: Callable[[Tensor], Tensor]
) -> Tensor:
    """The rule on blocks of rows of d_out: s (dB_i A_i + B dA_i), for all clients at once."""
    d_out, d_in = clients[0].factors.shapes[k]
    pairs = [change(client, k) for client in clients]
    result = torch.empty(d_out, d_in, dtype=torch.float64, device=clients[0].anchor.device)
    height = max(1, _BLOCK_VALUES // (len(clients) * d_in))
    for start in range(0, d_out, height):
        rows = slice(start, min(start + height, d_out))
        block = torch.stack([(left[rows] @ right).flatten() for left, right in pairs])
        result[rows] = column_rule(block).to(torch.float64).view(-1, d_in)
    return result
