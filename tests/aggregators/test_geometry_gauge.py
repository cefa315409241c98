"""Gauge alignment: products stay, the client's own gauge leaves no trace, and bounds refuse.

Not proven here: that the default bounds suit every optimizer and learning rate.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from product_space import (
    anchor_row,
    delta_rows,
    dense_change,
    describe,
    generator,
    in_other_gauge,
    matrices,
)

from aggregators.geometry import Factors, GaugeError, Module, align, gauge
from aggregators.geometry.layout import write

random = settings(max_examples=40, derandomize=True, deadline=None)
LOOSE = {"max_condition": 1e9, "max_stretch": 1e9}
# Small ranks of a large d_in, as LoRA has: random moves leave the row spaces near each other.
WIDE = describe((2, 3), shapes=((7, 50), (6, 90)))


@random
@given(seed=st.integers(0, 10**6))
def test_products_stay(seed):
    anchor, rows = anchor_row(WIDE, seed), delta_rows(4, WIDE, seed + 1)
    aligned = align(rows, anchor, WIDE, **LOOSE).rows
    for row, turned in zip(rows, aligned, strict=True):
        for was, now in zip(
            matrices(anchor + row, WIDE), matrices(anchor + turned, WIDE), strict=True
        ):
            assert np.allclose(now, was, rtol=0, atol=1e-12 * np.abs(was).max() * 10)


@random
@given(
    seed=st.integers(0, 10**6),
    condition=st.floats(1, 1e3),
    scale=st.sampled_from([1.0, -1.0, 100.0, 0.01]),
)
def test_no_gauge_leaves_a_trace(seed, condition, scale):
    anchor, rows = anchor_row(WIDE, seed), delta_rows(3, WIDE, seed + 1)
    turned = torch.stack(
        [
            in_other_gauge(row, anchor, WIDE, seed + i, condition=condition, scale=scale)
            for i, row in enumerate(rows)
        ]
    )
    one, other = align(rows, anchor, WIDE, **LOOSE), align(turned, anchor, WIDE, **LOOSE)
    assert torch.allclose(other.rows, one.rows, rtol=0, atol=1e-9 * float(one.rows.abs().max()))
    assert torch.allclose(other.stretches, one.stretches, rtol=1e-9)


def test_it_is_the_least_squares_fit_to_the_anchor():
    # S⁻¹ = A A_iᵀ (A_i A_iᵀ)⁻¹, by numpy's normal equations, on the first module.
    anchor, rows = anchor_row(WIDE), delta_rows(1, WIDE)
    m = WIDE.modules[0]
    a, moved = (x[slice(*m.a)].reshape(2, -1).numpy() for x in (anchor, anchor + rows[0]))
    b = (anchor + rows[0])[slice(*m.b)].reshape(-1, 2).numpy()
    inverse = a @ moved.T @ np.linalg.inv(moved @ moved.T)
    got = anchor + align(rows, anchor, WIDE).rows[0]
    assert np.allclose(got[slice(*m.a)].reshape(2, -1), inverse @ moved, rtol=1e-10)
    assert np.allclose(got[slice(*m.b)].reshape(-1, 2), b @ np.linalg.inv(inverse), rtol=1e-10)


def test_by_hand():
    # r = 1, A = (1, 0), A_i = (3, 4), B_i = 2. Projection of A on A_i: (1*3)/25 (3, 4) =
    # (0.36, 0.48), so S⁻¹ = 3/25 and B' = 2 * 25/3 = 50/3. The angle has cos 3/5: stretch 5/3.
    factors = Factors((Module((0, 2), (2, 3), 1, 1.0),), (), 3)
    anchor = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    row = torch.tensor([[2.0, 4.0, 2.0]], dtype=torch.float64)
    got = align(row, anchor, factors)
    expected = torch.tensor([0.36 - 1, 0.48, 50 / 3], dtype=torch.float64)
    assert torch.allclose(got.rows[0], expected, rtol=1e-14)
    assert got.stretches[0] == pytest.approx(5 / 3, rel=1e-14)
    assert got.conditions[0] == 1
    assert align(row, anchor, factors, max_stretch=1.67).stretches[0] < 1.67
    with pytest.raises(GaugeError, match=r"row 0: stretch 1.67 over 1.66"):
        align(row, anchor, factors, max_stretch=1.66)


def test_what_did_not_move_comes_back_bit_for_bit():
    anchor = anchor_row(WIDE).float()
    rows = delta_rows(3, WIDE, dtype=torch.float32)
    for m in WIDE.modules:
        rows[1, slice(*m.a)] = 0
    rows[2] = 0
    got = align(rows, anchor, WIDE)
    assert torch.equal(got.rows[1:], rows[1:])
    for first, stop in WIDE.plain:
        assert torch.equal(got.rows[:, first:stop], rows[:, first:stop])
    assert got.rows.dtype == torch.float32
    assert got.conditions[1:].tolist() == [1, 1]


@pytest.mark.parametrize("scale", [100.0, -1.0, 0.01])
def test_a_float32_copy_in_another_gauge_comes_back(scale):
    anchor, rows = anchor_row(WIDE).float(), delta_rows(1, WIDE, dtype=torch.float32)
    copy = in_other_gauge(rows[0], anchor, WIDE, 3, condition=1.0, scale=scale)
    both = align(torch.stack([rows[0], copy]), anchor, WIDE).rows
    far = float((rows[0] - copy).norm() / rows[0].norm())
    near = float((both[0] - both[1]).norm() / both[0].norm())
    assert far > 4  # in factors the copy is far off
    assert near < 1e-4  # in the anchor's gauge it is the twin, up to the rounding of A/100 - A


def test_one_client_at_100b_wrecks_the_mean_of_rows_until_it_is_aligned():
    # Its model is healthy: the mean of all products is the same whatever gauge it sends.
    anchor, rows = anchor_row(WIDE).float(), delta_rows(10, WIDE, size=0.1, dtype=torch.float32)
    sent = rows.clone()
    sent[0] = in_other_gauge(rows[0], anchor, WIDE, 3, condition=1.0, scale=100.0)
    truth = np.mean([dense_change(row, anchor, WIDE) for row in rows], axis=0)

    def error(mean):
        return np.linalg.norm(dense_change(mean, anchor, WIDE) - truth) / np.linalg.norm(truth)

    assert error(sent.mean(dim=0)) > 100
    assert error(align(sent, anchor, WIDE).rows.mean(dim=0)) < 0.1  # cross terms of honest factors
    assert error(align(sent, anchor, WIDE).rows.mean(dim=0)) == pytest.approx(
        error(align(rows, anchor, WIDE).rows.mean(dim=0)), rel=1e-3
    )


def test_a_round_one_anchor_with_b_zero_is_a_gauge():
    anchor = anchor_row(WIDE)
    for m in WIDE.modules:
        anchor[slice(*m.b)] = 0
    rows = delta_rows(2, WIDE)
    copy = in_other_gauge(rows[0], anchor, WIDE, 3, condition=5.0)
    both = align(torch.stack([rows[0], copy]), anchor, WIDE).rows
    assert torch.allclose(both[0], both[1], rtol=0, atol=1e-10)


def test_beyond_the_bounds_the_client_is_refused_by_index():
    anchor, rows = anchor_row(WIDE), delta_rows(4, WIDE)
    m = WIDE.modules[1]
    rows[1] = in_other_gauge(rows[1], anchor, WIDE, 3, condition=1e5)
    rows[3, slice(*m.a)] = -anchor[slice(*m.a)]  # A_i = 0
    with pytest.raises(
        GaugeError, match=r"row 1: condition .* over 1000; row 3: module 1"
    ) as caught:
        align(rows, anchor, WIDE)
    assert list(caught.value.refused) == [1, 3]
    assert align(rows[[0, 2]], anchor, WIDE).conditions.max() < 10


def test_a_gauge_does_not_hide_an_orthogonal_row_space():
    # A_i nearly orthogonal to A, given in the gauge in which S is the identity: A_i' = A_i.
    anchor, row = anchor_row(WIDE), torch.zeros(1, WIDE.num_columns, dtype=torch.float64)
    m = WIDE.modules[0]
    a = anchor[slice(*m.a)].reshape(2, -1)
    away = torch.randn(2, 50, generator=generator(1), dtype=torch.float64)
    away -= away @ torch.linalg.pinv(a) @ a
    q = torch.linalg.qr((away + 0.01 * a).T).Q
    row[0, slice(*m.a)] = ((a @ q) @ q.T - a).flatten()
    got = align(row, anchor, WIDE, **LOOSE)
    assert got.conditions[0] == pytest.approx(1, abs=1e-6)
    assert got.stretches[0] > 10
    with pytest.raises(GaugeError, match="row 0: stretch"):
        align(row, anchor, WIDE)


def test_honest_clients_stay_well_within_the_default_bounds():
    # peft draws A uniform within 1 / sqrt(d_in); 100 AdamW steps at 2e-4 move an entry by up to
    # 0.02. Here every entry moves by 0.02 with a random sign: 1.1 of |A| at d_in = 1024.
    shapes = ((64, 1024),)
    factors = describe((16,), (2.0,), shapes=shapes, plain=0)
    draw = generator(0)
    anchor = (torch.rand(factors.num_columns, generator=draw) * 2 - 1) / 32
    rows = 0.02 * torch.randn(10, factors.num_columns, generator=draw).sign()
    got = align(rows, anchor, factors)
    assert got.conditions.max() < 3
    assert got.stretches.max() < 2


def test_an_anchor_that_lost_a_direction_is_the_anchors_fault():
    anchor, rows = anchor_row(WIDE), delta_rows(2, WIDE)
    m = WIDE.modules[0]
    anchor[m.a[0] : m.a[0] + 50] = 0
    with pytest.raises(ValueError, match="needs an A of full rank"):
        align(rows, anchor, WIDE)


def test_a_module_with_a_fixed_factor_has_no_gauge():
    module = Module(None, (0, 14), 2, 1.0, fixed_a=torch.randn(2, 5, generator=generator(0)))
    factors = Factors((module,), ((14, 16),), 16)
    rows = delta_rows(3, factors)
    assert torch.equal(align(rows, anchor_row(factors), factors).rows, rows)


def test_an_a_that_cannot_have_full_rank_is_refused_in_words():
    # d_in = 5 < r = 6: B and A of shapes (7, 6) and (6, 5).
    module = Module(a=(0, 30), b=(30, 72), rank=6, scale=1.0)
    factors = Factors((module,), (), 72)
    anchor = torch.randn(72, generator=generator(0), dtype=torch.float64)
    rows = 0.1 * torch.randn(2, 72, generator=generator(1), dtype=torch.float64)
    with pytest.raises(ValueError, match="a rank of at most d_in: got an A of shape"):
        align(rows, anchor, factors)


def test_modules_turned_together_are_as_those_turned_alone(monkeypatch):
    same = describe((3, 3, 3, 2), (2.0, 0.5, 1.0, 1.0), shapes=((7, 50), (7, 50), (7, 50), (6, 90)))
    anchor, rows = anchor_row(same, 5), delta_rows(3, same, 6)
    together = align(rows, anchor, same, **LOOSE)
    monkeypatch.setattr(gauge, "_CONDITION", 0.0)
    alone = align(rows, anchor, same, **LOOSE)
    assert torch.allclose(together.rows, alone.rows, rtol=0, atol=1e-12)
    assert torch.allclose(together.conditions, alone.conditions, rtol=1e-10)
    assert torch.allclose(together.stretches, alone.stretches, rtol=1e-10)


def test_a_client_with_a_module_that_normal_equations_do_not_suit_is_turned_all_the_same():
    same = describe((3, 3), shapes=((7, 50), (7, 50)))
    anchor, (row,) = anchor_row(same, 5), delta_rows(1, same, 6)
    b, a = same.modules[1].factors(anchor + row)
    mix = torch.diag(torch.tensor([1.0, 1e-2, 1e-4]).double())
    write(row, same.modules[1], b @ torch.linalg.inv(mix), mix @ a)
    row[slice(*same.modules[1].b)] -= anchor[slice(*same.modules[1].b)]
    row[slice(*same.modules[1].a)] -= anchor[slice(*same.modules[1].a)]
    aligned = align([row], anchor, same, **LOOSE)
    for was, now in zip(
        matrices(anchor + row, same), matrices(anchor + aligned.rows[0], same), strict=True
    ):
        assert np.allclose(now, was, rtol=0, atol=1e-10 * np.abs(was).max())
