"""The product Gram against the dense matrices that it stands for.

Not proven here: that product geometry trains better; other devices than the CPU.
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
    dense_point,
    describe,
    generator,
    in_other_gauge,
)

from aggregators.engine.gram import gram
from aggregators.geometry import Factors, LowRank, Module, product_gram

random = settings(max_examples=40, derandomize=True, deadline=None)


def squared(points):
    return np.array([[((p - q) ** 2).sum() for q in points] for p in points])


def assert_is_gram_of(got, clients, extra=(), rtol=1e-10):
    """Compare distances, norms and distances to each extra point with those of dense vectors."""
    n = len(clients)
    apart = got.squared_distances().numpy()
    assert np.allclose(apart, squared(clients), rtol=rtol, atol=0)
    assert np.array_equal(apart, apart.T)
    assert np.allclose(got.norms(), [np.linalg.norm(p) for p in clients], rtol=rtol)
    assert np.allclose(
        got.inner_products(), np.array(clients) @ np.array(clients).T, rtol=rtol,
        atol=rtol * max(np.linalg.norm(p) for p in clients) ** 2,
    )  # fmt: skip
    assert got.num_clients == n
    assert got.num_extra == len(extra)
    for k, point in enumerate(extra):
        weights = torch.zeros(n + len(extra), dtype=torch.float64)
        weights[n + k] = 1
        far = got.distances_to(got.affine(weights)).numpy()
        assert np.allclose(far, [np.linalg.norm(p - point) for p in clients], rtol=rtol)


@random
@given(seed=st.integers(0, 10**6), n=st.integers(1, 8), plain=st.integers(0, 5))
def test_it_is_the_gram_of_the_dense_matrices(seed, n, plain):
    factors = describe((1 + seed % 3, 3), plain=plain)
    anchor, rows = anchor_row(factors, seed), delta_rows(n, factors, seed + 1)
    clients = [dense_change(row, anchor, factors) for row in rows]
    assert_is_gram_of(product_gram(rows, anchor, factors), clients)


@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-9])
def test_small_changes_of_a_large_anchor_keep_their_digits(size):
    # |P|² / |BA|² is down to 1e-18, which a difference of float64 Gram matrices cannot see at all.
    factors = describe()
    anchor, rows = anchor_row(factors), delta_rows(6, factors, size=size)
    clients = [dense_change(row, anchor, factors) for row in rows]
    assert_is_gram_of(product_gram(rows, anchor, factors), clients)


def test_a_common_offset_keeps_the_digits_of_the_spread():
    # About 1000 times the spread in every factor, a million times in the products' squares.
    factors = describe()
    anchor, rows = anchor_row(factors), delta_rows(6, factors, size=1) + 1000
    apart = product_gram(rows, anchor, factors).squared_distances().numpy()
    local = rows[2]
    clients = [
        dense_change(row - local, anchor + local, factors) for row in rows
    ]  # about client 2, so that the reference subtracts nothing large either
    assert np.allclose(apart, squared(clients), rtol=1e-10, atol=0)


def test_honest_distances_survive_a_payload():
    factors = describe()
    anchor, rows = anchor_row(factors), delta_rows(9, factors)
    rows[[0, 4, 7]] *= 1e8
    honest = [1, 2, 3, 5, 6, 8]
    clients = [dense_change(rows[i], anchor, factors) for i in honest]
    got = product_gram(rows, anchor, factors).squared_distances().numpy()[np.ix_(honest, honest)]
    assert np.allclose(got, squared(clients), rtol=1e-10, atol=0)


def test_ranks_and_anchors_may_differ_between_clients():
    kinds = [describe((2, 3)), describe((1, 2), scales=(4.0, 1.0)), describe((3, 1))]
    which = [0, 1, 1, 2, 0, 2]
    starts = [anchor_row(kind, k) for k, kind in enumerate(kinds)]
    factors, anchors = [kinds[k] for k in which], [starts[k] for k in which]
    rows = [delta_rows(1, kind, 9 + i)[0] for i, kind in enumerate(factors)]
    clients = [dense_change(*each) for each in zip(rows, anchors, factors, strict=True)]
    extra = [change_point(5), change_point(6)]
    got = product_gram(rows, anchors, factors, extra=extra)
    assert_is_gram_of(got, clients, [dense_point(point) for point in extra])


def change_point(seed, rank=2):
    draw = generator(seed)
    pairs = [
        tuple(torch.randn(*s, generator=draw, dtype=torch.float64) for s in ((o, rank), (rank, i)))
        for o, i in ((7, 5), (6, 9))
    ]
    return LowRank(tuple(pairs), torch.randn(4, generator=draw, dtype=torch.float64))


@pytest.mark.parametrize("rank", [1, 4])
def test_extra_points_stand_after_the_clients(rank):
    factors = describe()
    anchor, rows = anchor_row(factors), delta_rows(5, factors)
    extra = [change_point(3, rank), change_point(4, rank)]
    clients = [dense_change(row, anchor, factors) for row in rows]
    got = product_gram(rows, anchor, factors, extra=extra)
    assert_is_gram_of(got, clients, [dense_point(point) for point in extra])


def fixed(kind, *, seed=0):
    """Two modules that train one factor each: B first with A fixed, or the other way round."""
    draw = generator(seed)
    a = torch.randn(2, 5, generator=draw, dtype=torch.float64)
    b = torch.randn(6, 3, generator=draw, dtype=torch.float64)
    modules = {
        "a": (Module(None, (0, 14), 2, 2.0, fixed_a=a),),
        "b": (Module((0, 27), None, 3, 0.5, fixed_b=b),),
        "both": (
            Module(None, (0, 14), 2, 2.0, fixed_a=a),
            Module((14, 41), None, 3, 0.5, fixed_b=b),
        ),
    }[kind]
    used = {"a": 14, "b": 27, "both": 41}[kind]
    return Factors(modules, ((used, used + 2),), used + 2)


@pytest.mark.parametrize("kind", ["a", "b", "both"])
@pytest.mark.parametrize("anchors", ["shared", "apart"])
def test_a_fixed_factor_is_described_and_measured(kind, anchors):
    factors = fixed(kind)
    anchor, rows = anchor_row(factors), delta_rows(5, factors)
    given_anchors = anchor if anchors == "shared" else [anchor.clone() for _ in rows]
    clients = [dense_change(row, anchor, factors) for row in rows]
    assert_is_gram_of(product_gram(rows, given_anchors, factors), clients)


def test_a_fixed_factor_goes_with_extra_points():
    factors = fixed("both")
    anchor, rows = anchor_row(factors), delta_rows(5, factors)
    point = change_point(3)
    extra = [LowRank(point.pairs, point.plain[:2])]
    clients = [dense_change(row, anchor, factors) for row in rows]
    got = product_gram(rows, anchor, factors, extra=extra)
    assert_is_gram_of(got, clients, [dense_point(point) for point in extra])


@random
@given(
    seed=st.integers(0, 10**6),
    condition=st.floats(1, 1e3),
    scale=st.sampled_from([1.0, -1.0, 100.0, 0.01]),
)
def test_no_gauge_of_any_client_moves_it(seed, condition, scale):
    factors = describe()
    anchor, rows = anchor_row(factors, seed), delta_rows(6, factors, seed + 1)
    turned = torch.stack(
        [
            in_other_gauge(row, anchor, factors, seed + i, condition=condition, scale=scale)
            if i % 2
            else row
            for i, row in enumerate(rows)
        ]
    )
    clients = [dense_change(row, anchor, factors) for row in rows]
    # Rounding of S⁻¹A amplified by S: the condition times float64's 1e-16, and some.
    assert_is_gram_of(product_gram(turned, anchor, factors), clients, rtol=1e-9)


def test_a_float32_copy_at_100b_sits_on_its_twin():
    factors = describe()
    anchor, rows = anchor_row(factors).float(), delta_rows(6, factors, dtype=torch.float32)
    rows[5] = in_other_gauge(rows[0], anchor, factors, 1, condition=1.0, scale=100.0)
    apart = product_gram(rows, anchor, factors).squared_distances().sqrt()
    assert apart[0, 5] < 3e-5 * apart[0, 1]  # A/100 - A is rounded: 1e-5 of BA
    factor_apart = gram(rows).squared_distances().sqrt()
    assert factor_apart[0, 5] > 100 * factor_apart[0, 1]


def test_equal_clients_are_at_distance_zero_and_input_is_not_modified():
    factors = describe()
    anchor, rows = anchor_row(factors), delta_rows(6, factors)
    rows[[1, 4]] = rows[3].clone()
    before = rows.clone()
    apart = product_gram(rows, anchor, factors).squared_distances()
    assert (apart[[1, 3, 4]][:, [1, 3, 4]] == 0).all()
    assert torch.equal(rows, before)


def test_bits_do_not_depend_on_threads():
    factors = describe((4, 4), shapes=((300, 200), (100, 400)))
    anchor, rows = anchor_row(factors), delta_rows(20, factors)
    one = product_gram(rows, anchor, factors).centred
    torch.set_num_threads(2)
    try:
        two = product_gram(rows, anchor, factors).centred
    finally:
        torch.set_num_threads(1)
    assert torch.equal(one, two)


def test_no_dense_matrix_is_ever_formed():
    # d_out x d_in is 200 000 x 200 000 float64: 320 GB, which no test machine has.
    factors = describe((2,), (1.0,), shapes=((200_000, 200_000),), plain=0)
    anchor, rows = anchor_row(factors).float(), delta_rows(3, factors, dtype=torch.float32)
    got = product_gram(rows, anchor, factors)
    # <P, P> for P = dB A_i + B dA_i, by the four r x r pieces of one client.
    m = factors.modules[0]
    (b, a), (db, da) = m.factors(anchor), m.moves(rows[0])
    left, right = torch.cat([db, b], 1), torch.cat([a + da, da])
    assert float(got.norms()[0]) ** 2 == pytest.approx(
        float(((left.T @ left) * (right @ right.T)).sum()), rel=1e-10
    )


def test_what_does_not_fit_is_refused():
    factors = describe()
    anchor, rows = anchor_row(factors), delta_rows(3, factors)
    with pytest.raises(ValueError, match="row 0 needs 73 floating columns: got"):
        product_gram(rows[:, 1:], anchor, factors)
    with pytest.raises(ValueError, match="one anchor and one description per client"):
        product_gram(rows, [anchor], factors)
    other = describe(shapes=((7, 5), (6, 8)))
    two, starts = [rows[0], delta_rows(1, other)[0]], [anchor, anchor_row(other)]
    with pytest.raises(ValueError, match="only ranks may differ"):
        product_gram(two, starts, [factors, other])
    with pytest.raises(ValueError, match="extra needs a point over modules"):
        product_gram(rows, anchor, factors, extra=[LowRank((), torch.zeros(4))])
    with pytest.raises(
        ValueError, match=r"squared norms: got inf, nan or an overflow in rows \[0, 1, 2\]"
    ):
        product_gram(rows * float("nan"), anchor, factors)


def test_a_layout_with_holes_or_overlaps_is_refused():
    module = Module((0, 10), (10, 24), 2, 1.0)
    with pytest.raises(ValueError, match="overlap at columns"):
        Factors((module,), ((20, 30),), 30)
    with pytest.raises(ValueError, match="a gap"):
        Factors((module,), ((25, 30),), 30)
    with pytest.raises(ValueError, match="all 30 columns: got 24"):
        Factors((module,), (), 30)
    with pytest.raises(ValueError, match="for rank 3: got 10 columns"):
        Module((0, 10), (10, 24), 3, 1.0)
    with pytest.raises(ValueError, match="either columns a or fixed_a"):
        Module(None, (10, 24), 2, 1.0)
    with pytest.raises(ValueError, match="got a fixed one of shape"):
        Module(None, (0, 14), 2, 1.0, fixed_a=torch.zeros(3, 5))
    with pytest.raises(ValueError, match="finite scale > 0"):
        Module((0, 10), (10, 24), 2, 0.0)
