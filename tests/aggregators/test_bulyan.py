"""Bulyan's two steps: numbers worked by hand, and its picks against a slow loop of the paper.

Not proven here: the aggregate on many cases, where test_column_rules.py has all rules on columns.
"""

import pytest
import reference
import reference_columns
import torch
from test_column_rules import column, gaussian, refuse

from aggregators import MIXINGS, aggregate, aggregate_with_report
from aggregators.engine.gram import gram
from aggregators.rules.columns.bulyan import bulyan, bulyan_selection

BULYAN_ROWS = (0, 1, 2, 4, 7, 11, 100)
# f = 1: theta = 5 picks, each with 4 3 2 1 1 neighbours among the rows left.
#   0 1 2 4 7 11 100, 4 nearest:  70 47 34 38 86 246 ..  -> 2
#   0 1 4 7 11 100, 3 nearest:    66 46 34 61 165 ..     -> 4
#   0 1 7 11 100, 2 nearest:      50 37 52 116 ..        -> 1
#   0 7 11 100, the nearest:      49 16 16 ..            -> 7, the first of two mutual nearest
#   0 11 100, n' - f - 2 = 0, the nearest all the same: 121 121 .. -> 0
# Picked 0 1 2 4 7, median 2, the beta = 3 nearest: 2, 1, and of the tied 0 and 4 the lower: 1.


def test_bulyan():
    result = aggregate_with_report(column(*BULYAN_ROWS), "bulyan", f=1)
    assert result.aggregate.tolist() == [1]
    assert result.report["mixing[0].bulyan_selection.selected"] == [2, 3, 1, 4, 0]
    assert result.report["mixing[0].bulyan_selection.scores"] == pytest.approx(
        [34, 34, 37, 16, 121]
    )
    assert result.weights.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0, 0, 0, 0])
    # Scoring all rows once, as some peers do, would pick 2 4 1 0 7 in this order.
    order = [6, 5, 4, 3, 2, 1, 0]
    turned = bulyan_selection(gram(column(*BULYAN_ROWS)[order]), f=1)
    # Backwards 11 comes before 7; then 0 and 7 tie at 49.
    assert [BULYAN_ROWS[order[int(i)]] for i in turned.facts["selected"]] == [2, 4, 1, 11, 7]


def test_bulyan_without_liars_is_the_mean():
    rows = column(0, 1, 5)
    selection = bulyan_selection(gram(rows), f=0)
    # 0 1 5, one neighbour each: 1 1 16 -> 0. 1 5: tie -> 1. 5 alone.
    assert selection.facts == {"selected": [0, 1, 2], "scores": pytest.approx([1, 16, 0])}
    assert aggregate(rows, "bulyan", f=0).tolist() == [2]


@pytest.mark.parametrize("f", [0, 1, 2, 3, 4])
def test_bulyan_picks_what_the_reference_picks(f):
    # f <= 2: the last picks have one neighbour and tie by pairs.
    for seed in range(20):
        rows = gaussian(4 * f + 3 + seed % 3, 1 + seed % 4, seed)
        rows[seed % 3] = rows[-1]
        got = bulyan_selection(gram(rows), f=f).facts["selected"]
        assert got == reference_columns.bulyan_selection(rows.numpy(), f)


@pytest.mark.parametrize(("n", "f"), [(11, 2), (15, 3), (19, 4), (30, 6)])
def test_bulyan_s_ties_among_mixed_rows_are_not_left_to_rounding(n, f):
    # Neighbours mix to equal rows, and two mixed rows that differ by one swapped neighbour are as
    # far apart as two others that differ by the same swap: scores tie, but for their last digits.
    for seed in range(8):
        updates = gaussian(n, 4, seed)
        rows, points = updates.numpy(), gram(updates)
        for _ in range(2):
            points = points.mixed(MIXINGS["nnm"].function(points, f=f).matrix)
            rows = reference.nnm(rows, f)
            got = bulyan_selection(points, f=f).facts["selected"]
            assert got == reference_columns.bulyan_selection(rows, f)


def test_bulyan_s_selection_is_one_row_each():
    mixture = bulyan_selection(gram(gaussian(11, 5)), f=2)
    assert mixture.matrix.shape == (7, 11)
    assert mixture.matrix.dtype == torch.float64
    assert mixture.matrix.sum(dim=1).tolist() == [1] * 7
    assert mixture.matrix.argmax(dim=1).tolist() == mixture.facts["selected"]
    assert len(set(mixture.facts["selected"])) == 7


def test_bulyan_refuses_too_few_rows_in_either_step():
    with refuse("bulyan_selection needs n >= 4f + 3: got n=10, f=2"):
        bulyan_selection(gram(gaussian(10, 3)), f=2)
    with refuse("bulyan needs n >= 4f + 3: got n=10, f=2"):
        bulyan(gaussian(6, 3), f=2)
