"""capped_spectral: its cap, its length, and what it makes of rows worked by hand.

Not proven here: what a search over attackers' rows finds (test_capped_spectral_under_search.py).
"""

import math

import pytest
import torch

from aggregators import aggregate, aggregate_with_report


def rows_of(*values):
    return torch.tensor(values, dtype=torch.float64).reshape(len(values), -1)


def normal(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights_of(rows, f):
    return aggregate_with_report(rows, "capped_spectral", f=f).weights


def test_without_attackers_it_is_the_mean_to_the_bit():
    updates = normal(9, 40, 0) * torch.arange(1, 10)[:, None] ** 3  # lengths of 1 to 700
    assert torch.equal(aggregate(updates, "capped_spectral", f=0), aggregate(updates, "mean", f=0))


def test_orthogonal_rows_of_one_length_weigh_the_same():
    # Nothing tells one axis from another, and no length is cut: a fifth of each.
    assert aggregate(torch.eye(5, dtype=torch.float64), "capped_spectral", f=2).tolist() == (
        pytest.approx([0.2] * 5)
    )


def test_a_row_far_outside_a_clean_crowd_weighs_nothing():
    # 1 1 1 and -1, f = 1: all of one length. Without the fourth the spread is nothing at all.
    result = aggregate_with_report(rows_of(1, 1, 1, -1), "capped_spectral", f=1)
    assert result.aggregate.tolist() == pytest.approx([1], abs=1e-12)
    assert result.weights.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0], abs=1e-12)


def test_the_longest_are_cut_at_the_next_and_at_one_and_a_half_medians():
    # Lengths 1 1 1.2 9, f = 1: the next to 9 is 1.2, and 1.5 medians are 1.65.
    report = aggregate_with_report(torch.diag(rows_of(1, 1, 1.2, 9)[:, 0]), "capped_spectral", f=1)
    assert report.report["radius"] == pytest.approx(1.2)
    assert report.report["cut"] == pytest.approx([1, 1, 1, 1.2 / 9])
    # Lengths 1 1 1 1 8 9, f = 1: the next to 9 is 8, and 1.5 medians are 1.5.
    six = aggregate_with_report(torch.diag(rows_of(1, 1, 1, 1, 8, 9)[:, 0]), "capped_spectral", f=1)
    assert six.report["radius"] == pytest.approx(1.5)


def test_where_half_of_the_clients_stand_still_nothing_moves():
    assert aggregate(rows_of(0, 0, 0, 5), "capped_spectral", f=1).tolist() == [0]


def test_three_alike_of_ten_weigh_less_than_three():
    # Ten unit rows, three of them the same: at equal weights their direction has three times the
    # variance of any other. Least is the spread where the three share the weight of one: an eighth.
    updates = torch.eye(10, dtype=torch.float64)
    updates[8] = updates[9] = updates[7]
    weights = weights_of(updates, 3)
    assert float(weights[7:].sum()) == pytest.approx(1 / 8, abs=0.01)
    assert weights[7:].tolist() == pytest.approx([float(weights[7])] * 3)
    assert weights[:7].tolist() == pytest.approx([float(weights[0])] * 7)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("n", "f"), [(3, 1), (7, 2), (7, 3), (10, 3), (20, 9)])
def test_no_weight_is_above_the_cap_and_at_most_f_weigh_nothing(n, f, seed):
    updates = normal(n, 12, seed)
    updates[:f] = updates[:f] * 10.0 ** (seed - 1) + 3 * (seed % 2)
    weights = weights_of(updates, f)
    assert float(weights.max()) <= 1 / (n - f) + 1e-12
    assert int((weights < 1e-6 / n).sum()) <= f
    assert float(weights.sum()) <= 1 + 1e-12


@pytest.mark.parametrize("length", [1.0, 1.5, 30.0, 1e6])
@pytest.mark.parametrize("f", [1, 3, 4])
@pytest.mark.parametrize("spread", [0.0, 0.1, 1.0])
def test_it_is_no_longer_than_one_and_a_half_medians_at_four_of_ten(length, f, spread):
    # Also where four attack and f says fewer: under half, the median is no longer than an honest
    # row.
    updates = normal(10, 30, 1) * spread + 1
    updates[6:] = length * updates[:6].norm(dim=1).median() * torch.eye(30)[0]
    step = float(aggregate(updates, "capped_spectral", f=f).norm())
    assert step <= 1.5 * float(updates.norm(dim=1).sort().values[4:6].mean()) * (1 + 1e-12)


def test_an_honest_outlier_is_not_silenced_where_nobody_attacks():
    # Nine clients share a direction, the tenth has one of its own: it weighs less, and not nothing.
    common, own = normal(2, 200, 2)
    updates = normal(10, 200, 3) + 1.5 * common
    updates[9] += 1.5 * own - 1.5 * common
    weights = weights_of(updates, 3)
    assert 0.01 < float(weights[9]) < float(weights[:9].min())


def test_nudged_rows_move_it_by_as_little():
    # Between two steps the weights are interpolated: no choice that rounding could turn.
    updates = normal(10, 6, 4)
    updates[7:] = updates[7:] * 0.1 + 4
    before = aggregate(updates, "capped_spectral", f=3)
    for size in (1e-12, 1e-8, 1e-5):
        after = aggregate(updates + size * normal(10, 6, 5), "capped_spectral", f=3)
        assert float((after - before).norm()) < 100 * size * math.sqrt(60)


def test_where_half_stand_still_the_length_bound_costs_more_than_c_of_four():
    # Ten honest clients at 0, nine at 1 and an attacker at 0: the median is 0, and nothing moves.
    # The honest mean is 9/19, the variance 9/19 * 10/19; f/(n - 2f) = 1/18. So the error is
    # 18 (9/19)^2 / (9/19 * 10/19) = 18 * 0.9 = 16.2 units, and no rule that is no longer than the
    # median could do better.
    honest = torch.cat([torch.zeros(10, 1), torch.ones(9, 1)]).to(torch.float64)
    step = aggregate(torch.cat([honest, torch.zeros(1, 1).double()]), "capped_spectral", f=1)
    error = float((step - honest.mean(dim=0)).square())
    variance = float((honest - honest.mean(dim=0)).square().mean())
    assert error / (variance / 18) == pytest.approx(16.2)
