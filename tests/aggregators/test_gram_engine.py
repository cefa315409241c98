"""The Gram engine: exact where float32 is not, block by block, from any geometry.

Not proven here: other devices than the CPU, that no more than a block is copied, and threads
(test_engine_threads.py).
"""

import numpy as np
import pytest
import torch

from aggregators.engine.columns import walk_columns
from aggregators.engine.gram import Gram, _sample, gram, middle
from aggregators.engine.pool import Scratch
from aggregators.engine.rows import (
    block_width,
    column_blocks,
    combine,
    distances_to,
    squared_norms,
    stretches,
)
from aggregators.engine.rule import Kept


def gaussian(n, d, seed=0, dtype=torch.float32):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).to(dtype)


def direct(rows):
    rows = rows.to(torch.float64).numpy()
    return np.array([[((a - b) ** 2).sum() for b in rows] for a in rows])


@pytest.mark.parametrize(("offset", "spread"), [(0, 1), (1000, 1), (1000, 1e-3), (1e6, 1)])
def test_distances_survive_a_common_offset(offset, spread):
    rows = gaussian(30, 500) * spread + offset
    got = gram(rows).squared_distances().numpy()
    assert np.allclose(got, direct(rows), rtol=1e-9, atol=0)


def test_distances_of_the_honest_survive_a_payload():
    rows = gaussian(10, 500)
    rows[[2, 5, 9]] *= 1e8
    honest = [0, 1, 3, 4, 6, 7, 8]
    got = gram(rows).squared_distances().numpy()[np.ix_(honest, honest)]
    assert np.allclose(got, direct(rows[honest]), rtol=1e-12, atol=0)


def test_norms_and_inner_products_come_from_the_origin():
    rows = gaussian(6, 40, dtype=torch.float64) + 3
    points = gram(rows)
    assert torch.allclose(points.norms(), rows.norm(dim=1), rtol=1e-12)
    assert torch.allclose(points.inner_products(), rows @ rows.T, rtol=1e-11)


def test_equal_rows_are_at_distance_zero():
    rows = gaussian(9, 5000, seed=3)
    rows[[1, 4, 8]] = rows[6].clone()
    squares = gram(rows).squared_distances()
    assert (squares[[1, 4, 8]][:, [1, 4, 6, 8]] == 0).all()
    assert torch.equal(squares, squares.T)


def test_a_distance_that_is_only_rounding_is_zero():
    # 3 + 3 - 2 * (3 less one bit) is 9e-16 where the truth is 0 or less than float64 can tell.
    almost = 3 * (1 - 2**-52)
    centred = torch.tensor([[3, almost, 0], [almost, 3, 0], [0, 0, 0]], dtype=torch.float64)
    points = Gram(centred, 2)
    assert points.squared_distances().tolist() == [[0, 0], [0, 0]]
    assert points.distances_to(torch.tensor([0, 1.0, 0], dtype=torch.float64)).tolist() == [0, 0]


def test_distances_to_a_combination():
    rows = gaussian(7, 30, dtype=torch.float64)
    weights = torch.tensor([0.1, 0.2, 0, 0.3, 0.05, 0, 0.15], dtype=torch.float64)  # origin: 0.2
    points = gram(rows)
    point = (weights[:, None] * rows).sum(dim=0)
    got = points.distances_to(points.affine(weights))
    assert torch.allclose(got, (rows - point).norm(dim=1), rtol=1e-12)
    assert torch.allclose(distances_to(rows, point), got, rtol=1e-12)


def test_extra_points_stand_between_clients_and_origin():
    rows, center = gaussian(5, 30, dtype=torch.float64), gaussian(1, 30, 1, torch.float64)[0]
    points = gram(rows, extra=[center])
    assert (points.num_clients, points.num_extra) == (5, 1)
    at_center = torch.zeros(7, dtype=torch.float64)
    at_center[5] = 1
    assert torch.allclose(points.distances_to(at_center), (rows - center).norm(dim=1), rtol=1e-12)


def test_mixing_the_gram_is_mixing_the_rows():
    rows = gaussian(6, 30, dtype=torch.float64) + 2
    center = gaussian(1, 30, 1, torch.float64)[0]
    matrix = gaussian(4, 6, 2, torch.float64)  # any rows, not summing to one
    mixed = gram(rows, extra=[center]).mixed(matrix)
    want = gram(matrix @ rows, extra=[center])
    assert (mixed.num_clients, mixed.num_extra) == (4, 1)
    assert torch.allclose(mixed.squared_distances(), want.squared_distances(), rtol=1e-10)
    assert torch.allclose(mixed.inner_products(), want.inner_products(), rtol=1e-10)
    at_center = torch.tensor([0, 0, 0, 0, 1, 0], dtype=torch.float64)
    assert torch.allclose(mixed.distances_to(at_center), want.distances_to(at_center), rtol=1e-10)


def test_plain_inner_products_give_the_same_gram():
    rows = gaussian(6, 30, dtype=torch.float64)
    plain = Gram.from_inner_products(rows @ rows.T)
    assert torch.allclose(plain.squared_distances(), gram(rows).squared_distances(), rtol=1e-12)
    assert torch.allclose(plain.norms(), rows.norm(dim=1), rtol=1e-12)


def test_rows_may_be_a_sequence_of_rows():
    rows = gaussian(20, 15_001)
    apart = [row.clone() for row in rows]
    weights = torch.full((20,), 0.05, dtype=torch.float64)
    assert torch.equal(gram(apart).centred, gram(rows).centred)
    assert torch.equal(combine(apart, weights), combine(rows, weights))
    assert torch.equal(squared_norms(apart), squared_norms(rows))

    def largest(block):
        top = block.max(dim=0).values
        return Kept(top, top, top)

    assert torch.equal(walk_columns(apart, largest).aggregate, rows.max(dim=0).values)


def test_blocks_cover_each_column_once():
    rows = torch.arange(20 * 150_001, dtype=torch.float64).reshape(20, -1)
    seen = [
        (columns, block.clone())
        for stretch in stretches(rows)
        for columns, block in column_blocks(rows, stretch, Scratch())
    ]
    assert (len(stretches(rows)), len(seen)) == (2, 12)
    assert torch.equal(torch.cat([block for _, block in seen], dim=1), rows)
    assert all(torch.equal(rows[:, columns], block) for columns, block in seen)


def test_combine_never_reads_a_row_of_weight_zero():
    rows = torch.tensor([[1.0, 2.0], [float("nan"), float("inf")], [3.0, 4.0]])
    got = combine(rows, torch.tensor([0.5, 0.0, 0.5]))
    assert got.tolist() == [2, 3]


def test_combine_accumulates_in_float64():
    # 1e8 + 1 - 1e8 is 0 in float32.
    rows = torch.tensor([[1e8], [1.0], [-1e8]])
    assert combine(rows, torch.ones(3)).tolist() == [1]


def test_combine_with_no_weight_is_zero():
    assert combine(torch.ones(2, 3), torch.zeros(2)).tolist() == [0, 0, 0]


def test_combine_refuses_other_counts():
    with pytest.raises(ValueError, match=r"one weight per row: got 2 rows .* \(3,\)"):
        combine(torch.ones(2, 3), torch.ones(3))


def test_a_payload_hidden_from_the_sample_is_no_reference():
    # The payload stands where no sample is taken, on the row that is the median one there.
    rows = gaussian(9, 3_000_000)
    sample = squared_norms(rows, within=_sample(rows))
    row = int(sample.sort().indices[4])
    hidden = _sample(rows)[0].stop + 5
    assert all(not part.start <= hidden < part.stop for part in _sample(rows))
    rows[row, hidden] = 1e12
    honest = [i for i in range(9) if i != row]
    got = gram(rows).squared_distances().numpy()[np.ix_(honest, honest)]
    assert np.allclose(got, direct(rows[honest, :]), rtol=1e-11, atol=0)


def test_equal_rows_have_equal_bits_wherever_they_stand():
    # Ties break by the lowest index only if equal rows tie to the last bit.
    for n in (7, 11, 19, 20, 30, 61):
        rows = gaussian(n, 20_001, seed=n)
        equal = [1, n // 2, n - 2, n - 1]
        rows[equal] = rows[1].clone()
        squares = gram(rows).squared_distances()
        others = [i for i in range(n) if i not in equal]
        assert (squares[equal][:, others] == squares[1, others]).all()


def test_few_columns_are_counted_all_and_many_by_a_sixteenth():
    def first(block):
        return Kept(block[0], block[0], block[0])

    assert walk_columns(gaussian(3, 1000), first).used.tolist() == [1, 0, 0]
    many = gaussian(3, 1 << 17)
    for start in range(0, 1 << 17, block_width(many)):
        looked_at = slice(start, min(start + block_width(many), 1 << 17), 16)
        many[1, looked_at] = many[0, looked_at]  # equal on these, and on no others
    assert walk_columns(many, first).used.tolist() == [1, 1, 0]
    unmeasured = walk_columns(many, first, measure=False)
    assert torch.equal(unmeasured.aggregate, many[0])
    assert unmeasured.used.tolist() == unmeasured.distances.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "matrix",
    [
        torch.zeros(3, 4, dtype=torch.float64),
        torch.zeros(3, 3, dtype=torch.float64),  # no room for the origin
        torch.zeros(4, 4),
        torch.zeros(4, dtype=torch.float64),
    ],
)
def test_gram_refuses_other_matrices(matrix):
    with pytest.raises(ValueError, match="Gram needs a square float64 matrix"):
        Gram(matrix, 3)


def test_gram_refuses_what_is_not_finite():
    with pytest.raises(ValueError, match="Gram needs finite inner products"):
        Gram(torch.full((3, 3), torch.nan, dtype=torch.float64), 2)


def test_middle_of_an_even_count_is_the_mean_of_two():
    assert middle(torch.tensor([4.0, 1.0, 9.0])) == 4
    assert middle(torch.tensor([4.0, 1.0, 9.0, 5.0])) == 4.5
