"""Each rule on a few numbers worked by hand in a comment.

Not proven here: anything beyond these numbers; see test_rules_against_reference.py.
"""

import pytest
import torch

from aggregators import aggregate, aggregate_with_report


def column(*values):
    return torch.tensor(values, dtype=torch.float64).reshape(-1, 1)


def run(rows, name, **options):
    return aggregate_with_report(rows, name, **options)


def test_mean():
    # (1 + 2 + 6) / 3 = 3; each client a third. f does not matter.
    result = run(column(1, 2, 6), "mean", f=1)
    assert result.aggregate.tolist() == pytest.approx([3])
    assert result.weights.tolist() == pytest.approx([1 / 3] * 3)
    assert result.report["norms"] == pytest.approx([1, 2, 6])
    assert result.report["distances"] == pytest.approx([2, 1, 3])


def test_median_of_an_odd_and_of_an_even_count():
    # 1 2 6 -> 2. 1 2 6 100 -> (2 + 6) / 2 = 4, where torch.median says 2.
    assert aggregate(column(6, 1, 2), "median", f=1).tolist() == [2]
    result = run(column(6, 1, 100, 2), "median", f=1)
    assert result.aggregate.tolist() == [4]
    assert result.weights.tolist() == [0.5, 0, 0, 0.5]


def test_trimmed_mean():
    # 0 1 2 9, f = 1: 1 and 2 stay, 1.5.
    assert aggregate(column(9, 0, 1, 2), "trimmed_mean", f=1).tolist() == [1.5]


def test_trimmed_mean_survives_a_payload():
    # 1 2 3 and a payload: 2 and 3 stay in the first coordinate, 1 and 2 in the second. In
    # float32 the full sum minus the extremes would give 0: 1e8 + 1 is 1e8 there.
    rows = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [1e8, -1e8]])
    assert aggregate(rows, "trimmed_mean", f=1).tolist() == [2.5, 1.5]


def test_kept_share():
    # Columns 0 1 2 and 1 5 0, f = 1: kept are row 1 and row 0, each in one of two columns.
    rows = torch.tensor([[0.0, 1.0], [1.0, 5.0], [2.0, 0.0]])
    for name in ("trimmed_mean", "median"):
        result = run(rows, name, f=1)
        assert result.report["kept_share"] == [0.5, 0.5, 0]
        assert result.weights.tolist() == [0.5, 0.5, 0]
    # Rows that tie at the ends of what is kept are all used: 1 1 1 5, f = 1 keeps 1 1.
    result = run(column(1, 1, 1, 5), "trimmed_mean", f=1)
    assert result.weights.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])


KRUM_ROWS = (0, 1, 2, 4, 100)
# f = 1, so n - f - 2 = 2 neighbours. Squared distances to the two nearest others:
#   0: 1 + 4   1: 1 + 1   2: 1 + 4   4: 4 + 9   100: 96^2 + 98^2 = 18820
# With n - f - 1 = 3 neighbours, as some peers count, 2 would win: 1 + 4 + 4 = 9 against 11.


def test_krum():
    result = run(column(*KRUM_ROWS), "krum", f=1)
    assert result.aggregate.tolist() == [1]
    assert result.weights.tolist() == [0, 1, 0, 0, 0]
    assert result.report["scores"] == pytest.approx([5, 2, 5, 13, 18820])
    assert result.report["selected"] == 1


def test_multi_krum():
    # m = n - f = 4: (1 + 0 + 2 + 4) / 4 = 1.75. m = 2: 1, and of the tied 0 and 2 the first.
    assert aggregate(column(*KRUM_ROWS), "multi_krum", f=1).tolist() == [1.75]
    result = run(column(*KRUM_ROWS), "multi_krum", f=1, m=2)
    assert result.aggregate.tolist() == [0.5]
    assert result.report["selected"] == [1, 0]


def test_ties_break_by_index():
    # 0 1 2 10 11 12, f = 1, three neighbours: 2 and 10 score 1 + 4 + 64 both, 1 and 11 have
    # 1 + 1 + 81. The first listed is selected, in either order.
    assert aggregate(column(0, 1, 2, 10, 11, 12), "krum", f=1).tolist() == [2]
    assert aggregate(column(10, 11, 12, 0, 1, 2), "krum", f=1).tolist() == [10]


def test_geometric_median():
    # On a line the median: 0 1 10 -> 1.
    assert aggregate(column(0, 1, 10), "geometric_median", f=1).tolist() == pytest.approx(
        [1], abs=1e-5
    )
    # Of four corners of a convex quadrilateral, where the diagonals cross: y = x and y = 4 - 2x
    # cross at x = 4/3.
    rows = torch.tensor([[0.0, 0.0], [6.0, 6.0], [0.0, 4.0], [2.0, 0.0]])
    point = aggregate(rows, "geometric_median", f=1, max_steps=1000)
    assert point.tolist() == pytest.approx([4 / 3, 4 / 3], abs=1e-5)


def test_one_weiszfeld_step():
    # 0 2 6. Median distances to all, itself included: 2, 2, 4; start weights 1/4 1/4 1/16, so
    # 4 4 1 of 9: (0 + 8 + 6) / 9 = 14/9. Distances 14/9 4/9 40/9; scale 14/9. Weights 1/distance,
    # times 280/9: 20 70 7 of 97: (140 + 42) / 97.
    result = run(column(0, 2, 6), "geometric_median", f=1, max_steps=1)
    assert result.aggregate.tolist() == pytest.approx([182 / 97])
    assert result.report["scale"] == pytest.approx(14 / 9)
    assert result.report["steps"] == 1


def test_centered_clipping():
    # From 0, rows 1 2 6: the median distance is 2, pulls 1 2 2, v = 5/3. Weights 1/3 1/3 1/9,
    # the centre keeps 2/9.
    result = run(column(1, 2, 6), "centered_clipping", f=1, steps=1)
    assert result.aggregate.tolist() == pytest.approx([5 / 3])
    assert result.weights.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 9])
    assert result.report["center_share"] == pytest.approx(2 / 9)
    assert result.report["shrink"] == pytest.approx([1, 1, 1 / 3])
    assert result.report["radius"] == pytest.approx(2)
    # Second step: distances 2/3 1/3 13/3, radius 2/3, pulls -2/3 1/3 2/3: v = 5/3 + 1/9.
    assert aggregate(column(1, 2, 6), "centered_clipping", f=1, steps=2).tolist() == pytest.approx(
        [16 / 9]
    )
    # Radius 1: pulls 1 1 1.
    assert aggregate(
        column(1, 2, 6), "centered_clipping", f=1, steps=1, radius=1
    ).tolist() == pytest.approx([1])
    # From 4 with radius 1: pulls -1 -1 1, v = 4 - 1/3.
    state = {"center": torch.tensor([4.0])}
    result = run(column(1, 2, 6), "centered_clipping", f=1, steps=1, radius=1, state=state)
    assert result.aggregate.tolist() == pytest.approx([11 / 3])
    assert result.state["center"].tolist() == pytest.approx([11 / 3])


def test_nnm():
    # 0 1 10, f = 1: each row with its nearest: (0 + 1)/2, (1 + 0)/2, (10 + 1)/2.
    # Mean 6.5/3; client 1 is in all three rows: weights 2/6 3/6 1/6.
    result = run(column(0, 1, 10), "mean", f=1, mixing=("nnm",))
    assert result.aggregate.tolist() == pytest.approx([6.5 / 3])
    assert result.weights.tolist() == pytest.approx([2 / 6, 3 / 6, 1 / 6])
    assert result.report["mixing[0].nnm.chosen_by"] == [2, 3, 1]
    # Median 0.5, the value of the first two mixed rows: clients 0 and 1, a half each.
    result = run(column(0, 1, 10), "median", f=1, mixing=("nnm",))
    assert result.aggregate.tolist() == [0.5]
    assert result.weights.tolist() == [0.5, 0.5, 0]


def test_nnm_gives_a_column_rule_s_shares_back_to_the_clients():
    # 0 1 10 11.5, f = 1, three rows each: 0 1 10 and 1 0 10 mix to 11/3, 10 11.5 1 and 11.5 10 1
    # to 22.5/3. All four are middles, so the shares are how often each client was mixed in:
    # 2 4 4 2 of 12. The median is (11/3 + 22.5/3) / 2.
    result = run(column(0, 1, 10, 11.5), "median", f=1, mixing=("nnm",))
    assert result.aggregate.tolist() == pytest.approx([67 / 12])
    assert result.weights.tolist() == pytest.approx([2 / 12, 4 / 12, 4 / 12, 2 / 12])


def test_nnm_takes_a_row_before_its_equals():
    # 1 1 1 1 9, f = 2, three rows each, itself first and then by index:
    # 0 1 2, 1 0 2, 2 0 1, 3 0 1, 4 0 1.
    result = run(column(1, 1, 1, 1, 9), "mean", f=2, mixing=("nnm",))
    assert result.report["mixing[0].nnm.chosen_by"] == [5, 5, 3, 1, 1]


def test_nnm_twice():
    # Mixed rows 0.5 0.5 5.5, again with the nearest: 0.5 0.5 3. Mean 4/3.
    result = run(column(0, 1, 10), "mean", f=1, mixing=("nnm", "nnm"))
    assert result.aggregate.tolist() == pytest.approx([4 / 3])
    assert result.report["mixing[1].nnm.chosen_by"] == [3, 2, 1]
