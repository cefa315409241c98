"""Exact combination against dense sums and SVDs; what is cut off, carried, and never touched.

Not proven here: that a round in either gauge trains as well as plain averaging does.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from product_space import (
    anchor_row,
    best,
    delta_rows,
    dense_change,
    describe,
    generator,
    in_other_gauge,
    matrices,
    plain_values,
)

from aggregators.geometry import (
    Factors,
    LowRank,
    Module,
    combine_products,
    combined_change,
    gather,
    step,
    truncate,
    weighted_sum,
)

random = settings(max_examples=30, derandomize=True, deadline=None)
FACTORS = describe()


def targets(rows, anchor, factors, weights):
    """Each module's s B A + sum w_i P_i, dense, and the plain columns, by numpy."""
    total = sum(
        w * dense_change(row, anchor, factors) for w, row in zip(weights, rows, strict=True)
    )
    found, start = [], 0
    for matrix in matrices(anchor, factors):
        found.append(matrix + total[start : start + matrix.size].reshape(matrix.shape))
        start += matrix.size
    return found, plain_values(anchor, factors) + total[start:]


def combine(rows, anchor, weights, factors=FACTORS, **options):
    return combine_products(
        rows,
        anchor,
        factors,
        torch.tensor(weights, dtype=torch.float64),
        anchor=anchor,
        target=factors,
        **options,
    )


@random
@given(seed=st.integers(0, 10**6), gauge=st.sampled_from(["anchor", "balanced"]))
def test_it_is_the_truncated_svd_of_the_dense_sum(seed, gauge):
    anchor, rows = anchor_row(FACTORS, seed), delta_rows(4, FACTORS, seed + 1)
    weights = [0.5, -0.25, 0.0, 1.5]  # signed, any sum
    got = combine(rows, anchor, weights, gauge=gauge)
    dense, plain = targets(rows, anchor, FACTORS, weights)
    tails = 0.0
    for now, matrix, m in zip(matrices(got.row, FACTORS), dense, FACTORS.modules, strict=True):
        expected, tail = best(matrix, m.rank)
        tails += tail
        assert np.allclose(now, expected, rtol=0, atol=1e-9 * np.abs(matrix).max())
    assert np.allclose(plain_values(got.row, FACTORS), plain, rtol=1e-12)
    assert got.discarded == pytest.approx(tails / sum((m**2).sum() for m in dense), rel=1e-8)
    moved = sum(
        ((m - was) ** 2).sum() for m, was in zip(dense, matrices(anchor, FACTORS), strict=True)
    )
    assert got.discarded_of_change == pytest.approx(tails / moved, rel=1e-8)
    for (left, right), matrix, now in zip(
        got.residual.pairs, dense, matrices(got.row, FACTORS), strict=True
    ):
        assert np.allclose(left @ right, matrix - now, rtol=0, atol=1e-9)


@random
@given(seed=st.integers(0, 10**6), condition=st.floats(1, 1e2))
def test_no_gauge_of_any_client_moves_it(seed, condition):
    anchor, rows = anchor_row(FACTORS, seed), delta_rows(4, FACTORS, seed + 1)
    turned = torch.stack(
        [in_other_gauge(row, anchor, FACTORS, i, condition=condition) for i, row in enumerate(rows)]
    )
    one, other = (combine(x, anchor, [0.25] * 4) for x in (rows, turned))
    # Where two singular values at the cut are close, the kept space is only as sure as their gap.
    for a, b in zip(matrices(one.row, FACTORS), matrices(other.row, FACTORS), strict=True):
        assert np.allclose(a, b, rtol=0, atol=1e-7)
    assert torch.allclose(one.row, other.row, rtol=0, atol=1e-6)


@pytest.mark.parametrize("gauge", ["anchor", "balanced"])
@pytest.mark.parametrize("start", ["trained", "b_zero"])
def test_no_update_gives_the_anchor_back_bit_for_bit(gauge, start):
    anchor = anchor_row(FACTORS).float()
    if start == "b_zero":
        for m in FACTORS.modules:
            anchor[slice(*m.b)] = 0
    rows = delta_rows(3, FACTORS, dtype=torch.float32)
    nothing = combine(rows, anchor, [0.0, 0.0, 0.0], gauge=gauge)
    still = combine(torch.zeros_like(rows), anchor, [0.5, 0.5, 0.5], gauge=gauge)
    for got in (nothing, still):
        assert torch.equal(got.row, anchor)
        assert (got.discarded, got.discarded_of_change) == (0, 0)


def test_a_client_of_weight_zero_is_never_read():
    anchor, rows = anchor_row(FACTORS), delta_rows(3, FACTORS)
    expected = combine(rows[:2], anchor, [0.5, 0.5])
    rows[2] = float("nan")
    assert torch.equal(combine(rows, anchor, [0.5, 0.5, 0.0]).row, expected.row)


@pytest.mark.parametrize("gauge", ["anchor", "balanced"])
def test_with_a_unmoved_it_is_the_factor_mean_of_b(gauge):
    anchor, rows = anchor_row(FACTORS).float(), delta_rows(5, FACTORS, dtype=torch.float32)
    for m in FACTORS.modules:
        rows[:, slice(*m.a)] = 0
    got = combine(rows, anchor, [0.2] * 5, gauge=gauge)
    expected = (anchor.double() + sum(0.2 * row.double() for row in rows)).float()
    assert torch.equal(got.row, expected)
    assert got.discarded == 0


def fixed_factors(seed=0):
    draw = generator(seed)
    a = torch.randn(2, 5, generator=draw, dtype=torch.float64)
    b = torch.randn(6, 3, generator=draw, dtype=torch.float64)
    modules = (
        Module(None, (0, 14), 2, 2.0, fixed_a=a),
        Module((14, 41), None, 3, 0.5, fixed_b=b),
    )
    return Factors(modules, ((41, 43),), 43)


def test_with_a_factor_fixed_it_is_the_factor_mean():
    factors = fixed_factors()
    anchor, rows = anchor_row(factors).float(), delta_rows(5, factors, dtype=torch.float32)
    got = combine(rows, anchor, [0.2] * 5, factors)
    expected = (anchor.double() + sum(0.2 * row.double() for row in rows)).float()
    assert torch.equal(got.row, expected)


def test_momentum_on_products_is_momentum_on_factors_where_a_is_fixed():
    # Three rounds of m <- 0.9 m + g, anchor <- anchor + 0.7 m, truncated to the rank each time.
    factors = fixed_factors()
    anchor, flat = anchor_row(factors), anchor_row(factors)
    velocity, momentum = torch.zeros_like(flat), None
    for k in range(3):
        rows = delta_rows(4, factors, k)
        velocity = 0.9 * velocity + rows.mean(dim=0)
        flat = flat + 0.7 * velocity
        gathered = weighted_sum([change_of(row, anchor, factors) for row in rows], [0.25] * 4)
        points = [gathered] if momentum is None else [momentum, gathered]
        momentum, lost = truncate(weighted_sum(points, [0.9, 1.0][-len(points) :]), 3)
        assert lost < 1e-20
        anchor = step(anchor, factors, weighted_sum([momentum], [0.7])).row
    assert torch.allclose(anchor, flat, rtol=0, atol=1e-12)


def change_of(row, anchor, factors):
    return combined_change(gather([row], anchor, factors), torch.ones(1))


def test_gauge_anchor_keeps_what_a_is_like():
    anchor, rows = anchor_row(FACTORS), delta_rows(6, FACTORS)
    m = FACTORS.modules[0]
    for _ in range(5):
        was = anchor[slice(*m.a)].reshape(m.rank, -1)
        anchor = combine(rows, anchor, [1 / 6] * 6).row
        now = anchor[slice(*m.a)].reshape(m.rank, -1)
        assert torch.allclose(now @ now.T, was @ was.T, rtol=1e-9, atol=1e-9)
        # Nearest of its kind: turning it within its row space only leads away.
        c, d = np.cos(1e-3), np.sin(1e-3)
        turn = torch.tensor([[c, -d], [d, c]], dtype=torch.float64)
        root = torch.linalg.cholesky(was @ was.T)
        for turned in (turn, turn.T, -torch.eye(2, dtype=torch.float64)):
            other = root @ turned @ torch.linalg.solve(root, now)
            assert (now - was).norm() < (other - was).norm()


def test_gauge_anchor_leaves_a_where_the_row_space_stays():
    # Changes (random) @ A have A's row space, but as general terms and not as the anchor's A.
    anchor = anchor_row(FACTORS)
    pairs = []
    for m in FACTORS.modules:
        a = anchor[slice(*m.a)].reshape(m.rank, -1)
        left = torch.randn(m.d_out, m.rank, generator=generator(1), dtype=torch.float64)
        turn = torch.randn(m.rank, m.rank, generator=generator(2), dtype=torch.float64)
        pairs.append((left, turn @ a))
    got = step(anchor, FACTORS, LowRank(tuple(pairs), torch.zeros(4, dtype=torch.float64)))
    for m in FACTORS.modules:
        assert torch.allclose(got.row[slice(*m.a)], anchor[slice(*m.a)], rtol=0, atol=1e-11)
    assert got.discarded < 1e-25


def test_gauge_balanced_is_balanced_with_fixed_signs():
    anchor, rows = anchor_row(FACTORS), delta_rows(3, FACTORS)
    got = combine(rows, anchor, [1 / 3] * 3, gauge="balanced").row
    for m in FACTORS.modules:
        a, b = got[slice(*m.a)].reshape(m.rank, -1), got[slice(*m.b)].reshape(-1, m.rank)
        assert torch.allclose(a @ a.T, b.T @ b, rtol=0, atol=1e-12)
        assert (a.gather(1, a.abs().argmax(dim=1, keepdim=True)) > 0).all()


@pytest.mark.parametrize("gauge", ["anchor", "balanced"])
def test_a_direction_without_target_stays_alive(gauge):
    # B = 0, and the clients move one column of B only: the target has rank 1 of 2 and 3.
    anchor = anchor_row(FACTORS)
    rows = torch.zeros(2, FACTORS.num_columns, dtype=torch.float64)
    for m in FACTORS.modules:
        anchor[slice(*m.b)] = 0
        rows[:, slice(*m.b)].view(2, -1, m.rank)[:, :, 0] = 1
        rows[:, m.a[0]] = 0.1  # A moves as well, so that nothing is linear
    got = combine(rows, anchor, [0.5, 0.5], gauge=gauge).row
    assert got.isfinite().all()
    for now, m in zip(matrices(got, FACTORS), FACTORS.modules, strict=True):
        assert np.linalg.matrix_rank(now, tol=1e-9) == 1
        singular = torch.linalg.svdvals(got[slice(*m.a)].reshape(m.rank, -1))
        assert singular[-1] > 0.1 * singular[0]


def test_carried_residuals_lose_nothing():
    anchor, factors = anchor_row(FACTORS), FACTORS
    carry, total = None, [m.copy() for m in matrices(anchor, factors)]
    for k in range(4):
        rows = delta_rows(3, factors, 10 + k)
        change, _ = targets(rows, anchor, factors, [0.3, 0.3, 0.4])
        moved = [m - was for m, was in zip(change, matrices(anchor, factors), strict=True)]
        total = [was + m for was, m in zip(total, moved, strict=True)]
        got = combine(rows, anchor, [0.3, 0.3, 0.4], carry=carry)
        anchor, carry = got.row, got.residual
        assert got.discarded > 0
    for now, (left, right), expected in zip(
        matrices(anchor, factors), carry.pairs, total, strict=True
    ):
        assert np.allclose(now + (left @ right).numpy(), expected, rtol=0, atol=1e-11)


def test_a_residual_is_kept_to_its_rank_by_size():
    anchor, rows = anchor_row(FACTORS), delta_rows(4, FACTORS)
    whole, part = (combine(rows, anchor, [0.25] * 4, residual_rank=k) for k in (None, 1))
    assert part.discarded == whole.discarded
    for (left, right), (w_left, w_right) in zip(
        part.residual.pairs, whole.residual.pairs, strict=True
    ):
        expected, _ = best((w_left @ w_right).numpy(), 1)
        assert left.shape[1] == 1
        assert np.allclose(left @ right, expected, rtol=0, atol=1e-12)


def test_truncate_is_the_best_of_its_rank():
    draw = generator(3)
    pair = [torch.randn(*s, generator=draw, dtype=torch.float64) for s in ((7, 4), (4, 5))]
    point, lost = truncate(LowRank((tuple(pair),), torch.ones(2).double()), 2)
    expected, tail = best((pair[0] @ pair[1]).numpy(), 2)
    assert np.allclose(point.pairs[0][0] @ point.pairs[0][1], expected, rtol=0, atol=1e-12)
    assert lost == pytest.approx(tail / float((pair[0] @ pair[1]).square().sum()), rel=1e-10)
    assert truncate(point, 0)[0].pairs[0][0].shape == (7, 0)
    assert truncate(truncate(point, 0)[0], 1)[1] == 0
    with pytest.raises(ValueError, match="rank >= 0"):
        truncate(point, -1)


def test_no_dense_matrix_is_ever_formed():
    # d_out x d_in is 200 000 x 200 000 float64: 320 GB.
    factors = describe((2,), (1.0,), shapes=((200_000, 200_000),), plain=0)
    anchor, rows = anchor_row(factors).float(), delta_rows(3, factors, dtype=torch.float32)
    for gauge in ("anchor", "balanced"):
        got = combine(rows, anchor, [0.3, 0.3, 0.4], factors, gauge=gauge)
        assert got.row.isfinite().all()
        assert 0 < got.discarded < 1


def test_what_does_not_fit_is_refused():
    anchor, rows = anchor_row(FACTORS), delta_rows(3, FACTORS)
    with pytest.raises(ValueError, match="one weight per client: got 3"):
        combine(rows, anchor, [0.5, 0.5])
    with pytest.raises(ValueError, match="gauge needs to be anchor or balanced: got 'svd'"):
        combine(rows, anchor, [0.3, 0.3, 0.4], gauge="svd")
    with pytest.raises(ValueError, match="residual_rank needs to be >= 0"):
        combine(rows, anchor, [0.3, 0.3, 0.4], residual_rank=-1)
    with pytest.raises(ValueError, match="carry needs a point over modules"):
        combine(rows, anchor, [0.3, 0.3, 0.4], carry=LowRank((), torch.zeros(4)))
    m = FACTORS.modules[0]
    anchor[m.a[0] : m.a[0] + m.d_in] = 0
    with pytest.raises(ValueError, match=r"needs an A of full rank.*; start from an A of"):
        combine(rows, anchor, [0.3, 0.3, 0.4])
    assert combine(rows, anchor, [0.3, 0.3, 0.4], gauge="balanced").row.isfinite().all()
