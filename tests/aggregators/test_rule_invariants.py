"""What must hold for every rule and mixing, whatever the numbers.

Not proven here: robustness (test_robustness.py), agreement with the papers
(test_rules_against_reference.py), devices other than the CPU.
"""

import pytest
import torch
from calls import (
    AGGREGATORS,
    CHAINS,
    NOT_FOR_THE_MAJORITY,
    NOT_IDEMPOTENT,
    ON_GRAM,
    F,
    N,
    averages,
    call,
    equivariant,
    fast_part,
    pairs,
    report,
    takes,
)

from aggregators import Gram, aggregate, aggregate_with_report
from aggregators.engine.gram import gram

ALL = pairs()
# A bucketing draws which rows it joins: another order of clients, other buckets.
UNDRAWN = [chain for chain in CHAINS if "bucketing" not in chain]
DRAWLESS = pairs(chains=UNDRAWN)
# Updates clipped to one norm are ties for CGE, as are the last picks of Bulyan by its definition:
# the index breaks them.
TIED = {"clipping+cge", "arc+cge"}
IN_ANY_ORDER = [each for each in DRAWLESS if each.id not in TIED and each.values[0] != "bulyan"]
ALONE = [each for each in pairs(1, 0, UNDRAWN) if each.values[0] != "sign_majority"]
OUTVOTED = [each for each in DRAWLESS if each.values[0] not in NOT_FOR_THE_MAJORITY]
EQUIVARIANT = [each for each in ALL if equivariant(*each.values)]


def gaussian(n, d, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(("name", "chain"), fast_part(IN_ANY_ORDER, 0))
def test_client_order_does_not_matter(name, chain):
    rows = gaussian(11, 300)
    rows[2] *= 1e8
    order = torch.randperm(11, generator=torch.Generator().manual_seed(1))
    there = report(rows, name, 2, chain)
    back = report(rows[order], name, 2, chain)
    scale = there.aggregate.abs().max()
    assert (there.aggregate - back.aggregate).abs().max() <= 1e-12 * scale
    assert torch.allclose(there.weights[order], back.weights, rtol=1e-8, atol=1e-15)
    if name == "krum":
        assert order[int(back.report["selected"])] == there.report["selected"]


@pytest.mark.parametrize("name", ["mean", "trimmed_mean", "multi_krum"])
def test_without_liars_it_is_the_mean(name):
    rows = gaussian(7, 50)
    assert torch.allclose(aggregate(rows, name, f=0), rows.mean(dim=0), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "name", [name for name in AGGREGATORS if equivariant(name, ()) and averages(name, ())]
)
def test_nnm_without_liars_is_the_mean(name):
    # n - f = n: every mixed row is the mean.
    rows = gaussian(7, 50)
    got = aggregate(rows, name, f=0, mixing=("nnm",))
    assert torch.allclose(got, rows.mean(dim=0), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("name", "chain"), fast_part(ALONE, 11))
def test_one_client_is_itself(name, chain):
    row = gaussian(1, 50, dtype=torch.float32)
    result = report(row, name, 0, chain)
    assert torch.equal(result.aggregate, row[0])
    assert result.weights.tolist() == pytest.approx([1])


@pytest.mark.parametrize(
    ("name", "chain", "n"),
    [
        pytest.param(*each.values, n, id=f"{each.id}-{n}", marks=each.marks)
        for n in (3, 5, 7, 10, 11)
        for each in fast_part(pairs(n, 1 if n >= 5 else 0), n)
        if each.values[0] not in NOT_IDEMPOTENT
    ],
)
def test_equal_clients_are_one_client_bit_for_bit(name, chain, n):
    row = gaussian(1, 3000, dtype=torch.float32)
    row[0, :4] = torch.tensor([1e30, 1e-30, 0.0, 1000.001])
    f = 1 if n >= 5 else 0
    got = call(row.repeat(n, 1), name, f, chain)
    assert torch.equal(got, row[0])


@pytest.mark.parametrize(("name", "chain"), fast_part(ALL, 1))
def test_zeros_stay_zero(name, chain):
    got = call(torch.zeros(N, 20), name, F, chain)
    assert torch.equal(got, torch.zeros(20))


@pytest.mark.parametrize(("name", "chain"), fast_part(OUTVOTED, 12))
def test_a_majority_of_equal_clients_wins(name, chain):
    rows = gaussian(N, 40)
    rows[[0, 2, 3, 4, 6, 7, 8, 9, 10]] = rows[0].clone()  # n - f = 9 of 11
    rows[1] = 1e8
    steps = {"steps": 500} if name == "centered_clipping" else {}
    got = call(rows, name, F, chain, **steps)
    assert torch.allclose(got, rows[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("name", "chain"), fast_part(EQUIVARIANT, 13))
def test_moves_with_the_updates(name, chain):
    # F(x + c) = F(x) + c. Centered clipping: its centre moves along.
    rows, shift = gaussian(11, 60), gaussian(1, 60, seed=1)[0] * 100
    state = {"center": rows[0] * 2} if name == "centered_clipping" else None
    moved = {"center": rows[0] * 2 + shift} if state else None
    here = call(rows, name, 2, chain, state=state)
    there = call(rows + shift, name, 2, chain, state=moved)
    assert torch.allclose(there - shift, here, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-12, 1e30])
@pytest.mark.parametrize(("name", "chain"), fast_part(ALL, 2))
def test_scales_with_the_updates(name, chain, scale):
    # F(c x) = c F(x): no threshold in the units of somebody else's gradients.
    rows = gaussian(11, 60)
    rows[1] *= 50
    here = call(rows, name, 2, chain)
    there = call(rows * scale, name, 2, chain)
    assert torch.allclose(there / scale, here, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("chain", UNDRAWN, ids="+".join)
def test_centered_clipping_carries_on_from_its_state(chain):
    # Two calls of one step, the second from the first's state, are one call of two steps.
    rows = gaussian(N, 40)
    options = {"f": 2, "mixing": chain}
    once = aggregate_with_report(rows, "centered_clipping", steps=1, **options)
    again = aggregate(rows, "centered_clipping", steps=1, state=once.state, **options)
    assert torch.allclose(again, aggregate(rows, "centered_clipping", steps=2, **options))
    assert set(once.state) == {"center"}
    assert torch.equal(once.state["center"], once.aggregate)
    assert once.state["center"].data_ptr() != once.aggregate.data_ptr()


@pytest.mark.parametrize("name", [name for name, rule in AGGREGATORS.items() if not rule.memory])
def test_rules_without_memory_carry_nothing(name):
    assert report(gaussian(N, 4), name, F, state={}).state == {}


@pytest.mark.parametrize(("name", "chain"), fast_part(ALL, 3))
def test_input_is_neither_modified_nor_returned(name, chain):
    rows = gaussian(N, 40, dtype=torch.float32)
    center = gaussian(1, 40, seed=1)[0]
    kept, kept_center = rows.clone(), center.clone()
    state = {"center": center} if AGGREGATORS[name].memory == "center" else None
    result = report(rows, name, 2, chain, state=state)
    result.aggregate.fill_(7)
    assert torch.equal(rows, kept)
    assert torch.equal(center, kept_center)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "chain"), fast_part(ALL, 4))
def test_every_dtype_comes_back(name, chain, dtype):
    rows = gaussian(N, 40, dtype=dtype)
    got = call(rows, name, 2, chain)
    assert got.dtype == dtype
    assert torch.equal(got, call(rows.to(torch.float64), name, 2, chain).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("name", "chain"), fast_part(ALL, 5))
def test_nothing_overflows_at_the_top_of_a_dtype(name, chain, dtype):
    top = torch.finfo(dtype).max
    rows = torch.full((N, 3), top, dtype=dtype)
    if name in NOT_IDEMPOTENT:
        assert call(rows, name, F, chain).isfinite().all()
    else:
        assert call(rows, name, F, chain).tolist() == [top, top, top]


@pytest.mark.parametrize(("name", "chain"), fast_part(ALL, 6))
def test_gradients_and_strides_do_not_matter(name, chain):
    rows = gaussian(N, 40, dtype=torch.float32)
    want = call(rows, name, 2, chain)
    leaf = rows.clone().requires_grad_()
    result = report(leaf, name, 2, chain)
    assert not result.aggregate.requires_grad
    assert not result.weights.requires_grad
    assert torch.equal(result.aggregate, want)
    strided = rows.repeat_interleave(2, dim=1)[:, ::2]
    assert not strided.is_contiguous()
    assert torch.equal(call(strided, name, 2, chain), want)
    across = rows.t().contiguous().t()
    assert torch.equal(call(across, name, 2, chain), want)


@pytest.mark.parametrize(("name", "chain"), fast_part(ALL, 7))
def test_bits_do_not_depend_on_the_number_of_threads(name, chain):
    rows = gaussian(21, 20_000, dtype=torch.float32)
    before, seen = torch.get_num_threads(), []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            seen.append(report(rows, name, 4, chain))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(seen[0].aggregate, seen[1].aggregate)
    assert torch.equal(seen[0].weights, seen[1].weights)
    assert seen[0].report == seen[1].report


@pytest.mark.parametrize(("name", "chain"), fast_part(ALL, 8))
def test_weights_are_shares(name, chain):
    rows = gaussian(N, 40)
    rows[4] *= 1e8
    result = report(rows, name, 2, chain)
    assert result.weights.shape == (N,)
    assert result.weights.dtype == torch.float64
    assert (result.weights >= 0).all()
    total = float(result.weights.sum())
    if averages(name, chain) and name not in {"sign_majority", "rlr"}:
        assert total == pytest.approx(1)
    if name in ON_GRAM:
        by_weights = (result.weights[:, None] * rows).sum(dim=0)
        assert torch.allclose(by_weights, result.aggregate, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "chain"), fast_part(ALL, 9))
def test_report_measures_each_client(name, chain):
    rows = gaussian(N, 40) + 5
    result = report(rows, name, 2, chain)
    distances = (rows - result.aggregate).norm(dim=1)
    assert result.report["norms"] == pytest.approx(rows.norm(dim=1).tolist())
    assert result.report["distances"] == pytest.approx(distances.tolist(), abs=1e-6)
    plain = (float, list)
    assert all(isinstance(value, plain) for value in result.report.values())
    lists = [value for value in result.report.values() if isinstance(value, list)]
    assert all(type(entry) is float for value in lists for entry in value)


@pytest.mark.parametrize(("name", "chain"), fast_part(ALL, 10))
def test_a_gram_handed_in_gives_the_same(name, chain):
    rows = gaussian(N, 40)
    extra = list(takes(name, rows).get("reference", torch.empty(0, 40)).reshape(-1, 40))
    if AGGREGATORS[name].memory == "history":
        extra = list(torch.zeros_like(rows))
    want = report(rows, name, F, chain)
    got = report(rows, name, F, chain, gram=gram(rows, extra=extra))
    assert torch.allclose(got.aggregate, want.aggregate, rtol=1e-13, atol=0)
    assert got.report["distances"] == pytest.approx(want.report["distances"], rel=1e-13)


def test_a_gram_of_another_geometry_decides():
    # Three neighbours each. Rows: client 2, 1 + 4 + 48^2. In the other geometry clients 3 4 5
    # are the close ones, and of them client 5: 2.25 + 1 + 47.5^2.
    rows = torch.tensor([[0.0], [1.0], [2.0], [50.0], [90.0], [200.0]])
    other = torch.tensor([[50.0], [90.0], [200.0], [1.0], [1.5], [2.5]], dtype=torch.float64)
    foreign = Gram.from_inner_products(other @ other.T)
    assert aggregate(rows, "krum", f=1).tolist() == [2]
    assert aggregate(rows, "krum", f=1, gram=foreign).tolist() == [200]
    # NNM by the other geometry, then a rule on the columns of the rows.
    mixed = aggregate_with_report(rows, "median", f=1, mixing=("nnm",), gram=foreign)
    near = aggregate_with_report(rows, "median", f=1, mixing=("nnm",))
    assert mixed.aggregate.tolist() != near.aggregate.tolist()


def test_centered_clipping_takes_its_centre_from_a_gram_handed_in():
    rows, center = gaussian(9, 40), gaussian(1, 40, seed=1)[0]
    state, points = {"center": center}, gram(rows, extra=[center])
    want = aggregate(rows, "centered_clipping", f=2, state=state)
    got = aggregate(rows, "centered_clipping", f=2, state=state, gram=points)
    assert torch.equal(got, want)


def params_of(test):
    """The parameters of a test that runs over rules and chains; none of another's."""
    marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
    of_pairs = [mark.args[1] for mark in marks if set(mark.args[0]) >= {"name", "chain"}]
    return of_pairs[0] if of_pairs else []


def test_the_fast_tier_leaves_out_no_rule_no_chain_and_no_pair():
    met, tests = set(), [params for params in map(params_of, globals().values()) if params]
    assert len(tests) >= 14
    for params in tests:
        fast = {param.values[:2] for param in params if not param.marks}
        for place in (0, 1):
            assert {each[place] for each in fast} == {param.values[place] for param in params}
        met |= fast
    assert met == {each.values for each in ALL}
