"""The agreement mixing, and rows left out from elsewhere.

Not proven here: that honest clients agree with each other; on real updates see docs/results.
"""

import pytest
import torch

from aggregators import MIXINGS, Gram, aggregate, aggregate_with_report, plan, weigh
from aggregators.engine.gram import gram
from aggregators.engine.leaving_out import keep_others


def rows(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_by_hand():
    # Three at 0, 45 and 90 degrees, one at 225. Cosines of the first with the others: 0.7071, 0,
    # -0.7071, median 0; the third likewise; the second: 0.7071 twice and -1, median 0.7071; the
    # last: -0.7071 twice and -1, median -0.7071. The upper three: 0.7071, 0, 0; their median 0,
    # deviations 0.7071, 0, 0, median 0. The rows' own spreads: 0.7071, 0, 0.7071, 0, median 0.3536;
    # times 1.4826 * 1.2533 / sqrt(3): 0.3793. -0.7071 is above -0.7587: of four rows so far apart
    # no one can be said to be against the rest.
    updates = rows([1, 0], [1, 1], [0, 1], [-1, -1])
    facts = MIXINGS["agreement"].function(gram(updates), f=1).facts
    half = 0.5**0.5
    assert facts["agreement"] == pytest.approx([0, half, 0, -half], abs=1e-9)
    assert facts["against"] == 0
    # At 0, 10, 20, 30, 40 and 200 degrees. Cosines of the last: -0.9397, -0.9848, -1, -0.9848,
    # -0.9397: median -0.9848. Of the others it is one of five; of the first: 0.9848, 0.9397, 0.866,
    # 0.766, -0.9397, median 0.866; of the second 0.9848 twice, 0.9397, 0.866, -0.9848: 0.9397; the
    # third: 0.9848 twice, 0.9397 twice, -1: 0.9397. Middle 0.9397, deviations of the upper five
    # 0, 0, 0, 0.0737 twice: 0. Own spreads: of the first 0, 0.0737, 0.1, 0.1188, 1.8: 0.1; of the
    # second 0.0451; of the third 0.0451; of the last 0.0151: median 0.0451; times
    # 1.858 / sqrt(5): 0.0375. The last is far below.
    angles = torch.tensor([0, 10, 20, 30, 40, 200.0], dtype=torch.float64).deg2rad()
    updates = torch.stack([angles.cos(), angles.sin()], dim=1)
    facts = MIXINGS["agreement"].function(gram(updates), f=1).facts
    want = [0.866, 0.9397, 0.9397, 0.9397, 0.866, -0.9848]
    assert facts["agreement"] == pytest.approx(want, abs=1e-4)
    assert facts["against"] == 1
    # Eight alike and one against: agreements 1 and -1, no spread.
    updates = torch.cat([rows([2, 0]).repeat(8, 1), rows([-1, 0])])
    result = aggregate_with_report(updates, "mean", f=1, mixing=("agreement",))
    assert result.aggregate.tolist() == [2, 0]
    assert result.report["mixing[0].agreement.against"] == 1
    assert result.weights.tolist() == pytest.approx([1 / 8] * 8 + [0])


def test_at_most_f_go_and_the_worst_first():
    updates = torch.cat([rows([1, 0.0]).repeat(7, 1), rows([-1, 0.1], [-1, 0], [-1, 0.5])])
    result = aggregate_with_report(updates, "mean", f=1, mixing=("agreement",))
    assert (result.weights == 0).nonzero().flatten().tolist() == [8]
    result = aggregate_with_report(updates, "mean", f=3, mixing=("agreement",))
    assert (result.weights == 0).nonzero().flatten().tolist() == [7, 8, 9]


def crowd(generator, clients=10, d=4000, signal=0.3):
    """Honest rows of late rounds: a small common step under noise that is each one's own."""
    common = torch.randn(d, generator=generator, dtype=torch.float64)
    own = torch.randn(clients, d, generator=generator, dtype=torch.float64)
    return signal * common + own


def test_minus_the_mean_goes_though_it_is_nearest_to_all():
    generator = torch.Generator().manual_seed(0)
    updates = crowd(generator)
    honest = updates[:7]
    updates[7:] = -honest.mean(dim=0)
    # Distances prefer it: each liar is nearer to every honest client than these to each other.
    apart = torch.cdist(updates, updates)
    assert apart[7, :7].max() < (apart[:7, :7] + 1e9 * torch.eye(7)).min()
    worst = aggregate(updates, "geometric_median", f=3, mixing=("nnm",))
    held = aggregate(updates, "mean", f=3, mixing=("agreement",))
    mean = honest.mean(dim=0)
    assert worst @ mean < 0.2 * mean @ mean
    assert torch.allclose(held, mean)


def test_honest_rows_stay():
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        updates = crowd(generator, signal=0.3 if seed % 2 else 1.0)
        facts = MIXINGS["agreement"].function(gram(updates), f=3).facts
        assert facts["against"] == 0


def test_where_no_one_agrees_few_go():
    # Pure noise: agreements scatter round zero, and the bound lies about one of their standard
    # deviations below it.
    went = 0.0
    for seed in range(50):
        updates = crowd(torch.Generator().manual_seed(seed), signal=0.0)
        went += MIXINGS["agreement"].function(gram(updates), f=3).facts["against"]
    assert went / 50 < 1


def test_liars_do_not_widen_the_bound_for_each_other():
    # Each sends its own update turned round: in one round hardly to be told from noise.
    caught = 0.0
    for seed in range(20):
        updates = crowd(torch.Generator().manual_seed(seed), signal=0.3)
        updates[7:] *= -1
        result = aggregate_with_report(updates, "mean", f=3, mixing=("agreement",))
        assert (result.weights[:7] > 0).all()
        caught += float((result.weights[7:] == 0).sum())
    assert caught / 20 > 2.9


def test_zeros_and_huge_lengths():
    updates = torch.cat([torch.zeros(2, 3), rows([1, 1, 1]).repeat(5, 1)]).to(torch.float64)
    facts = MIXINGS["agreement"].function(gram(updates), f=2).facts
    assert facts["agreement"] == pytest.approx([0, 0, 1, 1, 1, 1, 1])
    assert facts["against"] == 0
    updates[0] = -1e150
    result = aggregate_with_report(updates, "mean", f=2, mixing=("agreement",))
    assert result.weights[0] == 0
    assert torch.allclose(result.aggregate, rows(5 / 6, 5 / 6, 5 / 6))


@pytest.mark.parametrize(
    "name", ["mean", "caf", "geometric_median", "krum", "trimmed_mean", "median"]
)
def test_rows_left_out_might_as_well_not_have_come(name):
    generator = torch.Generator().manual_seed(1)
    updates = torch.randn(9, 5, generator=generator, dtype=torch.float64)
    kept = [0, 1, 3, 4, 5, 7, 8]
    want = aggregate(updates[kept], name, f=2)
    spoilt = updates.clone()
    spoilt[[2, 6]] *= 1e6
    result = aggregate_with_report(spoilt, name, f=2, left_out=(2, 6))
    assert torch.allclose(result.aggregate, want, rtol=1e-9, atol=1e-12)
    assert result.weights[[2, 6]].tolist() == [0, 0]
    points = Gram.from_inner_products(spoilt @ spoilt.T)
    weights = weigh(points, plan(name), f=2, left_out=(2, 6)).weights
    if weights is not None:
        assert torch.allclose(weights, result.weights, atol=1e-6)


def test_f_stays_whoever_is_left_out():
    # krum needs 2f + 3 = 9 rows at f = 3: of 10, one may be left out, two may not.
    updates = torch.randn(10, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    result = aggregate_with_report(updates, "krum", f=3, left_out=(0,))
    assert torch.equal(result.aggregate, aggregate(updates[1:], "krum", f=3))
    with pytest.raises(ValueError, match="left_out needs to leave rows enough for krum at f=3"):
        aggregate_with_report(updates, "krum", f=3, left_out=(0, 5))


def test_agreement_is_skipped_where_the_rule_could_not_run_on_the_rest():
    # Seven agree and three point against them. caf is defined on seven rows at f = 3 (2f + 1), and
    # krum is not (2f + 3 = 9): there nobody goes.
    updates = crowd(torch.Generator().manual_seed(3))
    updates[7:] = -updates[:3]
    facts = aggregate_with_report(updates, "caf", f=3, mixing=("agreement",)).report
    assert facts["mixing[0].agreement.against"] == 3
    assert "mixing[0].agreement.skipped" not in facts
    skipped = aggregate_with_report(updates, "krum", f=3, mixing=("agreement",))
    assert skipped.report["mixing[0].agreement.skipped"] == 1
    assert torch.equal(skipped.aggregate, aggregate(updates, "krum", f=3))


def test_unfit_mixings_are_named_and_f_stays():
    # Bucketing by two leaves 4 of 7 rows, and caf at f = 3 needs 7: the second of three goes.
    chained = plan("caf", mixing=("nnm", "bucketing", "clipping"))
    assert chained.unfit(7, 3) == [1]
    assert chained.unfit(14, 3) == []
    assert plan("caf", mixing=("nnm",)).unfit(6, 3) == [0]  # the rule itself is not defined either


def test_what_is_left_out_takes_no_share_of_a_huge_row_along():
    # Two honest rows suspended from outside, three liars at a hundred times the length. A mean of
    # the others in the place of the two would be liars in part, and stay.
    generator = torch.Generator().manual_seed(4)
    updates = crowd(generator)
    updates[7:] = 100 * torch.randn(4000, generator=generator, dtype=torch.float64)
    result = aggregate_with_report(updates, "caf", f=3, left_out=(1, 2))
    assert (result.weights > 0).nonzero().flatten().tolist() == [0, 3, 4, 5, 6]
    mean = updates[[0, 3, 4, 5, 6]].mean(dim=0)
    assert (result.aggregate - mean).norm() < 0.01 * mean.norm()


def test_left_out_refusals():
    updates = torch.eye(5)
    for left_out in [(5,), (-1,), (0, 1, 2, 3, 4)]:
        with pytest.raises(ValueError, match="left_out needs row numbers below n=5"):
            aggregate_with_report(updates, "mean", f=0, left_out=left_out)
    with pytest.raises(ValueError, match="foolsgold cannot go with rows left out"):
        aggregate_with_report(updates, "foolsgold", f=0, left_out=(1,))
    with pytest.raises(ValueError, match="client weights cannot go with rows left out"):
        aggregate_with_report(updates, "mean", f=0, left_out=(1,), client_weights=torch.ones(5))
    with pytest.raises(ValueError, match="needs a row that stays"):
        keep_others(2, [0, 1])
