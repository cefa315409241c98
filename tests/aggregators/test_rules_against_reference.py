"""Every rule after every chain of mixings, against slow float64 loops of the papers.

Not proven here: that the definitions are good ones (the robustness test does that), nor speed,
nor any device but the CPU. Ties are compared too: rules and references each go by their own
statement of one tie rule, and no case may hang on the last bit.
"""

import itertools

import numpy as np
import pytest
import reference
import reference_columns
import reference_filters
import reference_subsets
import torch
from calls import call, defined, fast_part

from aggregators import AGGREGATORS, MIXINGS, aggregate, aggregate_with_report, plan
from aggregators.engine.rows import block_width

CHAINS = [(), ("nnm",), ("nnm", "nnm"), ("clipping",), ("arc", "nnm")]
RULES = {
    **reference.RULES,
    **reference_subsets.RULES,
    **reference_columns.RULES,
    **reference_filters.RULES,
}
BEFORE = {"nnm": reference.nnm, **reference_filters.MIXINGS}


def gaussian(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def outliers(n, f, d):
    rows = gaussian(n, d, seed=1)
    rows[1 : 2 * f : 2] *= 1e8
    return rows


def duplicates():
    rows = gaussian(11, 9, seed=2)
    rows[3] = rows[7]
    rows[4] = rows[7]
    rows[9] = rows[1]
    return rows


def ties():
    # Corners of a cube and their copies: distances and scores tie.
    corners = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)
    return torch.cat([corners, corners[[5, 2]]])


CASES = {  # name -> (rows, f)
    "gaussian": (gaussian(11, 37), 3),
    "even": (gaussian(12, 5, seed=3), 2),
    "no liar": (gaussian(7, 11, seed=4), 0),
    "outliers": (outliers(11, 3, 13), 3),
    "offset, spread 1": (gaussian(11, 17, seed=5) + 1000, 2),
    "offset, spread 1e-3": (gaussian(11, 17, seed=6) * 1e-3 + 1000, 2),
    "lora sized": (gaussian(11, 17, seed=7) * 1e-9, 2),
    "huge": (gaussian(11, 17, seed=8) * 1e30, 2),
    "duplicates": (duplicates(), 2),
    "ties": (ties(), 2),
    "many": (gaussian(30, 7, seed=9), 6),
    "one coordinate": (gaussian(13, 1, seed=10), 3),
    "one coordinate, even": (gaussian(12, 1, seed=11), 2),
}


def is_compared(name, case, chain):
    """Whether the rule is defined, and its reference can be worked out in a second."""
    rows, f = CASES[case]
    if len(rows) == 30 and name in reference_subsets.RULES and name != "caf":
        return False  # it enumerates 593,775 subsets
    return defined(name, chain, len(rows), f)


def compared(chain):
    """Every (rule, case) that is compared after a chain."""
    return [
        pytest.param(name, case, chain, id="-".join([name, case, "+".join(chain)]))
        for name in AGGREGATORS
        for case in CASES
        if is_compared(name, case, chain)
    ]


ALL = [param for chain in CHAINS for param in compared(chain)]


def expected(name, chain, rows, f, **options):
    rows = rows.to(torch.float64).numpy()
    if name == "fltrust":  # as `calls.takes` hands it over
        options["reference"] = torch.tensor(rows).median(dim=0).values.numpy()
    if name == "sign_majority":  # the step is of the rows as they came
        rms = np.sqrt((rows**2).mean(axis=1))
        options.setdefault("step", float(np.median(rms)))
    about = np.zeros(rows.shape[1])
    if name in reference_subsets.RULES and set(chain) <= {"nnm"}:
        # They move with the rows. At an offset of 1000 the reference's mixing would round away
        # more than a tie is wide.
        about = rows[0].copy()
        rows = rows - about
    for k, mixing in enumerate(chain):
        mixed = BEFORE[mixing](rows, f)
        if plan(name, mixing=chain[k + 1 :]).is_defined(len(mixed), f):
            rows = mixed
    return about + RULES[name](rows, f, **options)


def assert_close(got, want, tolerance, rows=None):
    gap = np.abs(got.to(torch.float64).numpy() - want).max()
    # Where clipped rows cancel, what is left is rounding of the rows.
    size = 0.0 if rows is None else float(rows.to(torch.float64).abs().median())
    scale = max(np.abs(want).max(), size)
    assert gap <= tolerance * scale, gap / scale


def test_every_rule_and_mixing_has_a_reference():
    assert set(AGGREGATORS) == set(RULES)
    assert set(MIXINGS) == set(BEFORE)
    assert len(AGGREGATORS) >= 22
    covered = {(param.values[0], param.values[2]) for param in ALL}
    for name in AGGREGATORS:
        for chain in CHAINS:
            assert (name, chain) in covered or not defined(name, chain, 11, 2)


def test_the_fast_tier_compares_every_two_of_a_rule_a_case_and_a_chain():
    for turn in (0, 1):
        fast = [each.values for each in fast_part(ALL, turn, bare=False) if not each.marks]
        for a, b in ((0, 1), (0, 2), (1, 2)):
            every = {(each.values[a], each.values[b]) for each in ALL}
            assert {(each[a], each[b]) for each in fast} == every


@pytest.mark.parametrize(("name", "case", "chain"), fast_part(ALL, 0, bare=False))
def test_agrees_with_the_reference_in_float64(name, case, chain):
    rows, f = CASES[case]
    assert_close(call(rows, name, f, chain), expected(name, chain, rows, f), 1e-10, rows)


@pytest.mark.parametrize(("name", "case", "chain"), fast_part(ALL, 1, bare=False))
def test_agrees_with_the_reference_in_float32(name, case, chain):
    rows, f = CASES[case]
    rows = rows.to(torch.float32)
    assert_close(call(rows, name, f, chain), expected(name, chain, rows, f), 1e-6, rows)


@pytest.mark.parametrize("chain", CHAINS[:2], ids="+".join)
@pytest.mark.parametrize("case", ["offset, spread 1", "offset, spread 1e-3", "outliers"])
@pytest.mark.parametrize("name", ["krum", "multi_krum", "geometric_median", "centered_clipping"])
def test_float32_rows_lose_nothing_to_a_common_offset(name, case, chain):
    # The aggregate above is rounded to float32: at an offset of 1000 it cannot show an error of
    # 1e-2 of a spread of 1e-3. The weights can: combined in float64, they must give the
    # reference to 1e-6 of the *spread*.
    rows, f = CASES[case]
    rows = rows.to(torch.float32)
    weights = aggregate_with_report(rows, name, f=f, mixing=chain).weights
    want = expected(name, chain, rows, f)
    if name == "centered_clipping":  # the rest of the weight is on the origin
        assert float(weights.sum()) <= 1 + 1e-12
    got = (weights[:, None] * rows.to(torch.float64)).sum(dim=0).numpy()
    spread = float(rows.to(torch.float64).std(dim=0).median())
    assert np.abs(got - want).max() <= 1e-6 * spread


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("multi_krum", {"m": 1}),
        ("multi_krum", {"m": 4}),
        ("geometric_median", {"max_steps": 1}),
        ("geometric_median", {"max_steps": 5, "nu": 0.5, "tolerance": 0.0}),
        ("geometric_median", {"tolerance": 0.1}),
        ("centered_clipping", {"steps": 1}),
        ("centered_clipping", {"steps": 3, "radius": 2.5}),
    ],
)
def test_options_mean_what_the_reference_means(name, options):
    rows, f = CASES["gaussian"]
    for chain in CHAINS[:2]:
        got = aggregate(rows, name, f=f, mixing=chain, **options)
        assert_close(got, expected(name, chain, rows, f, **options), 1e-10, rows)
        assert not torch.equal(got, aggregate(rows, name, f=f, mixing=chain))


@pytest.mark.parametrize("chain", CHAINS[:3], ids="+".join)
def test_centered_clipping_starts_at_the_last_aggregate(chain):
    rows, f = CASES["outliers"]
    center = gaussian(1, rows.shape[1], seed=12)[0] * 3
    got = aggregate(rows, "centered_clipping", f=f, mixing=chain, state={"center": center})
    want = expected("centered_clipping", chain, rows, f, center=center.numpy())
    assert_close(got, want, 1e-10, rows)


@pytest.mark.parametrize("name", [name for name in RULES if defined(name, ("nnm",), 20, 4)])
def test_rows_longer_than_a_block_agree(name, shrink):
    # 20 rows are walked in blocks of 13,112 columns: 27,001 are three, the last one short.
    rows = gaussian(20, 27_001 // shrink, seed=13)
    assert len(range(0, rows.shape[1], block_width(rows))) == 3
    f = 4
    want = expected(name, ("nnm",), rows, f)
    assert_close(call(rows, name, f, ("nnm",)), want, 1e-10, rows)


def test_geometric_median_minimises_the_sum_of_distances():
    # At the minimum the unit vectors to the rows cancel.
    rows, f = CASES["gaussian"]
    point = aggregate(rows, "geometric_median", f=f, max_steps=5000, tolerance=0.0)
    towards = rows - point
    pull = (towards / towards.norm(dim=1, keepdim=True)).sum(dim=0).norm()
    assert float(pull) < 1e-7
