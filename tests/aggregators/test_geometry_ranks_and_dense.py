"""Clients of several ranks, and coordinate rules on the dense products, against numpy.

Not proven here: the time and memory of the dense way at full size.
"""

import numpy as np
import pytest
import torch
from product_space import (
    anchor_row,
    best,
    delta_rows,
    dense_change,
    dense_point,
    describe,
    in_other_gauge,
    matrices,
    plain_values,
)

from aggregators.geometry import (
    combine_dense,
    combine_products,
    dense,
    join,
    receive,
    split,
    weighted_sum,
)

FACTORS = describe()


def test_clients_of_other_ranks_combine_from_what_they_received():
    small = describe((1, 2), scales=(4.0, 1.0))
    anchor = anchor_row(FACTORS)
    given_row = receive(anchor, FACTORS, small)
    for now, matrix, m in zip(
        matrices(given_row, small), matrices(anchor, FACTORS), small.modules, strict=True
    ):
        assert np.allclose(now, best(matrix, m.rank)[0], rtol=0, atol=1e-12)
    rows = [delta_rows(1, FACTORS, 3)[0], delta_rows(1, small, 4)[0]]
    got = combine_products(
        rows, [anchor, given_row], [FACTORS, small], torch.tensor([0.5, 0.5], dtype=torch.float64),
        anchor=anchor, target=FACTORS,
    )  # fmt: skip
    moved = 0.5 * dense_change(rows[0], anchor, FACTORS)
    moved += 0.5 * dense_change(rows[1], given_row, small)
    start = 0
    for now, was, m in zip(
        matrices(got.row, FACTORS), matrices(anchor, FACTORS), FACTORS.modules, strict=True
    ):
        expected, _ = best(was + moved[start : start + was.size].reshape(was.shape), m.rank)
        start += was.size
        assert np.allclose(now, expected, rtol=0, atol=1e-11)


def test_a_fresh_anchor_is_received_as_its_leading_rows():
    anchor, small = anchor_row(FACTORS).float(), describe((1, 2))
    for m in FACTORS.modules:
        anchor[slice(*m.b)] = 0
    got = receive(anchor, FACTORS, small)
    for m, own in zip(FACTORS.modules, small.modules, strict=True):
        assert torch.equal(got[slice(*own.a)], anchor[m.a[0] : m.a[0] + own.rank * own.d_in])
        assert (got[slice(*own.b)] == 0).all()
    with pytest.raises(ValueError, match="a rank up to 2"):
        receive(anchor, FACTORS, describe((3, 3)))


def test_split_and_join_are_inverse():
    row = anchor_row(FACTORS).float()
    point = split(row, FACTORS)
    for (left, right), matrix in zip(point.pairs, matrices(row, FACTORS), strict=True):
        assert np.allclose(left @ right, matrix, rtol=1e-14)
    assert torch.equal(join(point, FACTORS), row)
    with pytest.raises(ValueError, match="needs a pair of rank 2"):
        join(weighted_sum([point, point], [1, 1]), FACTORS)


def median(block):
    return block.sort(dim=0).values[block.shape[0] // 2]


@pytest.mark.parametrize("block_values", [1, 100, 1 << 22])
@pytest.mark.parametrize("gauge", ["anchor", "balanced"])
def test_a_coordinate_rule_on_dense_products(monkeypatch, block_values, gauge):
    monkeypatch.setattr(dense, "_BLOCK_VALUES", block_values)
    anchor, rows = anchor_row(FACTORS), delta_rows(5, FACTORS)
    rows[4] = in_other_gauge(rows[4], anchor, FACTORS, 1, condition=20.0)
    got = combine_dense(rows, anchor, FACTORS, median, anchor=anchor, target=FACTORS, gauge=gauge)
    ruled = np.median([dense_change(row, anchor, FACTORS) for row in rows], axis=0)
    start = 0
    for now, was, m in zip(
        matrices(got.row, FACTORS), matrices(anchor, FACTORS), FACTORS.modules, strict=True
    ):
        expected, _ = best(was + ruled[start : start + was.size].reshape(was.shape), m.rank)
        start += was.size
        assert np.allclose(now, expected, rtol=0, atol=1e-10)
    assert np.allclose(
        plain_values(got.row, FACTORS), plain_values(anchor, FACTORS) + ruled[start:], rtol=1e-12
    )
    whole = np.concatenate([m.ravel() for m in matrices(got.row, FACTORS)])
    rest = dense_point(got.residual)[: whole.size]
    was = np.concatenate([m.ravel() for m in matrices(anchor, FACTORS)])
    assert np.allclose(whole + rest, was + ruled[:start], rtol=0, atol=1e-10)


def test_the_dense_mean_is_the_exact_combination():
    anchor, rows = anchor_row(FACTORS), delta_rows(4, FACTORS)
    quarter = torch.full((4,), 0.25, dtype=torch.float64)
    given = {"anchor": anchor, "target": FACTORS}
    carry = combine_products(rows, anchor, FACTORS, quarter, **given).residual
    one = combine_products(rows, anchor, FACTORS, quarter, carry=carry, **given)
    other = combine_dense(
        rows, anchor, FACTORS, lambda block: block.mean(dim=0), anchor=anchor, target=FACTORS,
        carry=carry,
    )  # fmt: skip
    assert torch.allclose(one.row, other.row, rtol=0, atol=1e-10)
    assert one.discarded == pytest.approx(other.discarded, rel=1e-9)
