"""No choice hangs on rounding: rows off by 1e-14 of themselves give the same aggregate.

What two machines compute differs by as much, so this is what it takes for them to agree. Ties by
definition are in the cases of test_rules_against_reference.py: equal rows, corners of a cube, rows
clipped to one norm, neighbours mixed to one mean.

Not proven here: what two rows that truly differ by 1e-9 of themselves do.
"""

import pytest
import torch
from calls import ON_GRAM, fast_part, report
from test_rules_against_reference import ALL, CASES

from aggregators.engine.ties import TIE, first_least, in_order, levels

NOISE = 1e-14
# By equal rows, by symmetry, or by what clipping and mixing make of rows; the others are slow.
TIED = ["duplicates", "ties", "one coordinate", "one coordinate, even", "many"]
CALLS = [
    each
    if each.values[1] in TIED
    else pytest.param(*each.values, id=each.id, marks=pytest.mark.slow)
    for each in fast_part(ALL, 2, bare=False)
]


def nudged(rows, *, seed, zeros=True):
    """Each number moved up or down by 1e-14: of a row's largest, or of itself if zeros stay."""
    draw = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, rows.shape, generator=draw, dtype=torch.float64) * 2 - 1
    size = rows.abs().amax(dim=1, keepdim=True) if zeros else rows.abs()
    return rows + NOISE * signs * size


@pytest.mark.parametrize(("name", "case", "chain"), CALLS)
def test_rounding_of_the_rows_chooses_nothing(name, case, chain):
    rows, f = CASES[case]
    there = report(rows, name, f, chain)
    # A zero has no sign, and its rounding has one: votes are of signs.
    zeros = name not in {"sign_majority", "rlr"}
    # Of a spread of 1 (1e-3) beside an offset of 1000 the noise is 1e-11 (1e-8).
    middle = rows.median(dim=0).values
    noise = NOISE * float(rows.abs().max(dim=1).values.median())
    spread = float((rows - middle).norm(dim=1).median())
    allowed = max(1e-9 * spread, 20 * noise, 20 * NOISE * float(there.aggregate.abs().max()))
    for seed in range(2):
        here = report(nudged(rows, seed=seed, zeros=zeros), name, f, chain)
        assert (here.aggregate - there.aggregate).abs().max() <= allowed
        if name in ON_GRAM:
            torch.testing.assert_close(here.weights, there.weights, rtol=0, atol=1e-6)


def test_values_within_the_tie_are_one_level_and_the_lowest_index_leads():
    # 1 and 1 + 5e-10 tie, and so do 3 and 3 + 2e-9; 1 + 4e-9 is 3.5e-9 above 1 + 5e-10.
    values = torch.tensor([3 + 2e-9, 1 + 5e-10, 3.0, 1.0, 1 + 4e-9], dtype=torch.float64)
    assert levels(values).tolist() == [2, 0, 2, 0, 1]
    assert in_order(values).tolist() == [1, 3, 4, 0, 2]
    assert first_least(values) == 1
    assert in_order(torch.stack([values, values.flip(0)]))[1].tolist() == [1, 3, 0, 2, 4]
    # Beside numbers of 1e9, what differs by 4e-9 may be rounding: a floor says so.
    assert in_order(values, floor=1e-8).tolist() == [1, 3, 4, 0, 2]
    assert levels(values, floor=1e-8).tolist() == [1, 0, 1, 0, 0]


def test_zeros_tie_with_zeros_alone():
    values = torch.tensor([1e-300, 0.0, 0.0], dtype=torch.float64)
    assert levels(values).tolist() == [1, 0, 0]
    assert first_least(values) == 1
    assert TIE == 1e-9
