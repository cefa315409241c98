"""A round with `combination: dense`: a rule on columns, on each entry of the products BA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from aggregators import Plan
from aggregators.engine.gram import middle
from aggregators.geometry import combine_dense
from fedtune.round.aggregation.points import Combined, gram_of, point_of, seen_from, shared
from fedtune.round.aggregation.product_outer import ProductOuter
from fedtune.round.broadcast import Broadcast, Received


def combine_entries(
    rows: Sequence[Tensor],
    received: Sequence[Received],
    sent: Broadcast,
    outer: ProductOuter,
    *,
    plan: Plan,
    f: int,
) -> Combined:
    """Let the rule work on the products' entries; the step is made along with it.

    Args:
        rows: The clients' deltas.
        received: What each of them started from.
        sent: The round's broadcast.
        outer: Keeps what rank r could not hold.
        plan: The recipe's; its rule works on columns, and nothing is mixed before it.
        f: Clients that may be Byzantine.
    """
    starts, factors = shared(received)
    whole, last = sent.whole, plan.last
    given: dict[str, Any] = dict(last.options)
    if last.rule.takes_scale:
        entries = sum(out * in_ for out, in_ in whole.factors.shapes) + whole.factors.num_plain
        given["scale"] = middle(gram_of(rows, received, []).norms()) / entries**0.5

    def rule(block: Tensor) -> Tensor:
        values: Tensor = last.rule.function(block, f=f, **given).values
        return values

    made = combine_dense(
        rows,
        starts,
        factors,
        rule,
        anchor=whole.anchor,
        target=whole.factors,
        carry=outer.residual,
        residual_rank=outer.residual_rank,
    )
    seen = seen_from(rows, received, point_of(made.row - whole.anchor, whole))
    return replace(seen, change=made)
