"""Every rule, and product geometry, on a CUDA device, against the CPU.

Not proven here: speed, and anything without such a device, where this file is not run.
"""

import pytest
import torch
from product_space import anchor_row, delta_rows, describe, in_other_gauge

from aggregators import AGGREGATORS, aggregate_with_report
from aggregators.geometry import (
    Factors,
    LowRank,
    Module,
    align,
    combine_dense,
    combine_products,
    combined_change,
    gather,
    product_gram,
    receive,
    renew,
    truncate,
)

pytestmark = pytest.mark.gpu


CASES = [
    (name, chain)
    for name, rule in AGGREGATORS.items()
    for chain in ((), ("nnm",))
    if not (chain and rule.memory == "history")
]


@pytest.mark.parametrize(("name", "chain"), CASES)
def test_the_device_does_not_matter(name, chain):
    rows = torch.randn(20, 30_001, generator=torch.Generator().manual_seed(0))
    rows[3] *= 1e8
    rule, given = AGGREGATORS[name], {"f": 4, "mixing": chain}
    if rule.memory == "center":
        given["state"] = {"center": rows[5] / 2}
    if rule.takes_reference:
        given["reference"] = rows[6] / 2
    draws = [torch.Generator().manual_seed(0) for _ in range(2)]
    here = aggregate_with_report(rows, name, generator=draws[0], **given)
    there = aggregate_with_report(rows.cuda(), name, generator=draws[1], **given)
    assert there.aggregate.device.type == "cuda"
    assert there.weights.device.type == "cpu"
    assert torch.allclose(there.aggregate.cpu(), here.aggregate, rtol=1e-5, atol=1e-6)
    assert torch.allclose(there.weights, here.weights, rtol=1e-6, atol=1e-12)


COLUMN_RULES = [name for name, rule in AGGREGATORS.items() if rule.kind == "columns"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("n", [20, 60])
@pytest.mark.parametrize("name", COLUMN_RULES)
def test_columns_are_sorted_alike_by_network_and_by_sort_in_any_dtype(name, n, dtype):
    # Up to 48 rows a network, beyond it torch.sort, on both devices.
    rows = torch.randn(n, 5001, generator=torch.Generator().manual_seed(1)).to(dtype)
    here = aggregate_with_report(rows, name, f=4)
    there = aggregate_with_report(rows.cuda(), name, f=4)
    tolerance = 1e-12 if dtype == torch.float64 else 2**-7  # a unit in the last place of bfloat16
    got = there.aggregate.cpu().double()
    assert torch.allclose(got, here.aggregate.double(), rtol=tolerance, atol=1e-6)
    assert torch.allclose(there.weights, here.weights, rtol=1e-6, atol=1e-12)


def test_a_history_goes_on_from_one_device_on_the_other():
    rounds = [torch.randn(6, 50, generator=torch.Generator().manual_seed(k)) for k in range(2)]
    states = []
    for there in (rounds, [rounds[0].cuda(), rounds[1]], [rounds[0], rounds[1].cuda()]):
        state = None
        for rows, clients in zip(there, ([0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6]), strict=True):
            how = {"state": state, "clients": clients}
            state = aggregate_with_report(rows, "foolsgold", f=0, **how).state
        states.append(state)
    assert all(state["history"].device.type == "cpu" for state in states)
    assert all(torch.equal(state["history"], states[0]["history"]) for state in states[1:])


# Product geometry: everything that is handed in lies on one device.

FACTORS = describe(ranks=(4, 3), shapes=((40, 30), (50, 60)))
NARROW = describe(ranks=(2, 3), shapes=((40, 30), (50, 60)))
WEIGHTS = torch.tensor([0.3, 0.2, 0.0, 0.1, 0.4], dtype=torch.float64)


def near(there, here):
    """Equal up to what the order of sums in float64 may change."""
    return torch.allclose(there.cpu(), here, rtol=1e-9, atol=1e-11)


def on_cuda(point):
    pairs = tuple((left.cuda(), right.cuda()) for left, right in point.pairs)
    return LowRank(pairs, point.plain.cuda())


def one_sided(side):
    """One module of which the other factor is fixed, on the CPU as a recipe would have it."""
    fixed = torch.randn(3, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    if side == "a":
        return Factors((Module((0, 24), None, 3, 2.0, fixed_b=fixed.T.contiguous()),), (), 24)
    return Factors((Module(None, (0, 24), 3, 2.0, fixed_a=fixed),), (), 24)


@pytest.mark.parametrize("shared", [True, False])
def test_the_gram_of_products(shared):
    anchor, rows = anchor_row(FACTORS), delta_rows(5, FACTORS)
    point = combined_change(gather(rows[:2], anchor, FACTORS), WEIGHTS[:2])
    # Clients of one anchor object, or of two equal ones: other sums.
    here = anchor if shared else [anchor, anchor, anchor.clone(), anchor, anchor]
    device = anchor.cuda()
    there = device if shared else [device, device, device.clone(), device, device]
    want = product_gram(rows, here, FACTORS, extra=[point])
    got = product_gram(rows.cuda(), there, FACTORS, extra=[on_cuda(point)])
    assert got.centred.device.type == "cpu"
    assert near(got.centred, want.centred)


@pytest.mark.parametrize("side", ["a", "b"])
def test_the_gram_and_the_sum_of_products_with_one_factor_fixed(side):
    factors = one_sided(side)
    anchor, rows = anchor_row(factors), delta_rows(5, factors)
    want = product_gram(rows, anchor, factors).centred
    assert near(product_gram(rows.cuda(), anchor.cuda(), factors).centred, want)
    here = combine_products(rows, anchor, factors, WEIGHTS, anchor=anchor, target=factors)
    on = anchor.cuda()
    there = combine_products(rows.cuda(), on, factors, WEIGHTS, anchor=on, target=factors)
    assert near(there.row, here.row)


@pytest.mark.parametrize("gauge", ["anchor", "balanced"])
def test_the_sum_of_products_and_what_is_left_over(gauge):
    anchor, rows = anchor_row(FACTORS), delta_rows(5, FACTORS)
    carry = combined_change(gather(rows[:1], anchor, FACTORS), WEIGHTS[:1])
    how = {"target": FACTORS, "gauge": gauge, "residual_rank": 2}
    here = combine_products(rows, anchor, FACTORS, WEIGHTS, anchor=anchor, carry=carry, **how)
    on = anchor.cuda()
    there = combine_products(
        rows.cuda(), on, FACTORS, WEIGHTS, anchor=on, carry=on_cuda(carry), **how
    )
    assert there.row.device.type == "cuda"
    assert near(there.row, here.row)
    assert there.discarded == pytest.approx(here.discarded, rel=1e-9)
    for got, want in zip(there.residual.pairs, here.residual.pairs, strict=True):
        assert near(got[0] @ got[1], want[0] @ want[1])


def test_the_gauge_of_the_anchor():
    anchor, rows = anchor_row(FACTORS), delta_rows(3, FACTORS)
    rows = torch.stack([in_other_gauge(row, anchor, FACTORS, k) for k, row in enumerate(rows)])
    here, there = align(rows, anchor, FACTORS), align(rows.cuda(), anchor.cuda(), FACTORS)
    assert there.rows.device.type == "cuda"
    assert near(there.rows, here.rows)
    assert near(there.conditions, here.conditions)
    moved = anchor + 0.1 * here.rows[0]
    want, got = renew(moved, anchor, FACTORS), renew(moved.cuda(), anchor.cuda(), FACTORS)
    assert near(got.row, want.row)
    assert near(got.turn(rows[1].cuda()), want.turn(rows[1]))


def test_a_column_rule_on_products_and_other_ranks():
    anchor, rows = anchor_row(FACTORS), delta_rows(5, FACTORS)

    def rule(block):
        return AGGREGATORS["median"].function(block, f=1).values

    here = combine_dense(rows, anchor, FACTORS, rule, anchor=anchor, target=FACTORS)
    on = anchor.cuda()
    there = combine_dense(rows.cuda(), on, FACTORS, rule, anchor=on, target=FACTORS)
    assert near(there.row, here.row)
    assert near(receive(on, FACTORS, NARROW), receive(anchor, FACTORS, NARROW))
    point = combined_change(gather(rows, anchor, FACTORS), WEIGHTS)
    want, lost = truncate(point, 3)
    got, lost_there = truncate(on_cuda(point), 3)
    assert lost_there == pytest.approx(lost, rel=1e-9)
    for one, other in zip(got.pairs, want.pairs, strict=True):
        assert near(one[0] @ one[1], other[0] @ other[1])
