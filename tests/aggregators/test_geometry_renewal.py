"""The anchor's gauge after a step: products stay, A keeps its Gram matrix, momentum turns along.

Not proven here: that a run learns with it; see test_gauge_in_a_run.py.
"""

import numpy as np
import torch
from product_space import anchor_row, delta_rows, describe, matrices

from aggregators.geometry import align, renew

WIDE = describe((2, 3), shapes=((7, 50), (6, 90)))


def factors_of(row):
    return [module.factors(row) for module in WIDE.modules]


def test_products_stay_and_a_has_its_gram_matrix_again():
    anchor = anchor_row(WIDE, 0)
    row = anchor + delta_rows(1, WIDE, 1)[0]
    renewed = renew(row, anchor, WIDE).row
    for was, now in zip(matrices(row, WIDE), matrices(renewed, WIDE), strict=True):
        assert np.allclose(now, was, rtol=0, atol=1e-12 * np.abs(was).max())
    for (_, a), (_, before) in zip(factors_of(renewed), factors_of(anchor), strict=True):
        assert torch.allclose(a @ a.T, before @ before.T, rtol=1e-10, atol=1e-12)


def test_no_gauge_of_the_row_leaves_a_trace():
    anchor = anchor_row(WIDE, 0)
    row = anchor + delta_rows(1, WIDE, 1)[0]
    other = renew(row, anchor, WIDE).row  # one of its gauges
    again = renew(other, anchor, WIDE).row
    assert torch.allclose(again, other, rtol=1e-9, atol=1e-11)


def test_what_did_not_move_comes_back_bit_for_bit():
    anchor = anchor_row(WIDE, 0)
    row = anchor.clone()
    row[slice(*WIDE.modules[0].b)] += 1
    renewed = renew(row, anchor, WIDE)
    assert torch.equal(renewed.row, row)
    assert renewed.turns == (None, None)


def test_a_change_turns_along_with_the_row():
    # To first order: P(row + e) - P(row) is P(renewed + turned e) - P(renewed).
    anchor = anchor_row(WIDE, 0)
    row, change = anchor + delta_rows(1, WIDE, 1)[0], 1e-6 * delta_rows(1, WIDE, 2)[0]
    renewed = renew(row, anchor, WIDE)
    turned = renewed.turn(change)
    pairs = zip(
        matrices(row + change, WIDE),
        matrices(row, WIDE),
        matrices(renewed.row + turned, WIDE),
        matrices(renewed.row, WIDE),
        strict=True,
    )
    for after, before, other_after, other_before in pairs:
        want = after - before
        assert np.allclose(other_after - other_before, want, atol=1e-4 * np.abs(want).max())


def test_rounds_of_aligned_means_do_not_shrink_a():
    # Five clients who each move A by about half its length in directions of their own: without
    # renewal the mean of their aligned A is 0.8 of the anchor's after one round.
    anchor, start = anchor_row(WIDE, 0), factors_of(anchor_row(WIDE, 0))
    shrunk = anchor
    for round_ in range(8):
        for renews in (True, False):
            now = anchor if renews else shrunk
            rows = delta_rows(5, WIDE, 10 * round_) * 0.0
            for row, noise in zip(rows, delta_rows(5, WIDE, 10 * round_ + 1), strict=True):
                for module in WIDE.modules:
                    a = slice(*module.a)
                    length = start[WIDE.modules.index(module)][1].norm()
                    row[a] = 0.5 * length * noise[a] / noise[a].norm()
            loose = {"max_condition": 1e12, "max_stretch": 1e12}
            mean = now + align(rows, now, WIDE, **loose).rows.mean(dim=0)
            if renews:
                anchor = renew(mean, now, WIDE).row
            else:
                shrunk = mean
    for (_, a), (_, b), (_, first) in zip(
        factors_of(anchor), factors_of(shrunk), start, strict=True
    ):
        assert torch.allclose(a.norm(), first.norm(), rtol=1e-9)
        assert b.norm() < 0.5 * first.norm()


def test_an_a_that_has_lost_a_direction_is_left_as_it_is():
    anchor = anchor_row(WIDE, 0)
    row = anchor.clone()
    row[slice(*WIDE.modules[0].a)] = 0
    renewed = renew(row, anchor, WIDE)
    assert renewed.turns[0] is None
    assert torch.equal(renewed.row, row)
