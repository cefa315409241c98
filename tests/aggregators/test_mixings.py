"""The mixings alone, in chains and before rules: NNM, bucketing, static clipping, ARC.

Not proven here: that mixing helps (test_robustness.py asks that of NNM). Two cases are left out,
where clipping to one radius makes ties that rounding decides: Krum on a line, whose clipped rows
are equal, and NNM of a zero row, to which all clipped rows are equally far.
"""

import numpy as np
import pytest
import reference
import reference_filters
import torch
from calls import in_a_dtype
from test_rules_against_reference import CASES, gaussian

from aggregators import MIXINGS, aggregate, aggregate_with_report, plan
from aggregators.engine.gram import gram

BUCKETS = {"name": "bucketing", "s": 3}
CHAINS = [
    ("bucketing",),
    (BUCKETS,),
    ("clipping",),
    ("arc",),
    ("clipping", "bucketing"),
    ("bucketing", "arc"),
    ("arc", "nnm"),
    ("nnm", "bucketing"),
    ("nnm", "arc", "clipping"),
    ("bucketing", "bucketing"),
    ("agreement",),
    ("agreement", "nnm"),
]
SPECIAL = {  # name -> (rows, f)
    "one client": (gaussian(1, 9), 0),
    "a zero row": (torch.cat([torch.zeros(1, 9), gaussian(10, 9)]).to(torch.float64), 2),
    "mostly zeros": (torch.cat([torch.zeros(8, 9), gaussian(3, 9)]).to(torch.float64), 2),
    "all equal": (gaussian(1, 9).repeat(11, 1), 2),
    "payload 1e8": (torch.cat([torch.full((2, 9), 1e8), gaussian(9, 9)]).to(torch.float64), 2),
    "payload 1e30": (torch.cat([torch.full((1, 9), 1e30), gaussian(9, 9)]).to(torch.float64), 1),
    "tiny": (gaussian(9, 9) * 1e-12, 2),
}


def column(*values):
    return torch.tensor(values, dtype=torch.float64).reshape(-1, 1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def mixed_by_loops(name, chain, rows, f):
    """The rows after the chain, shuffles drawn as the engine draws them."""
    generator = seeded()
    for k, each in enumerate(chain):
        if each == "nnm":
            rows = reference.nnm(rows, f)
        elif each in ("clipping", "arc", "agreement"):
            mixed = reference_filters.MIXINGS[each](rows, f)
            if plan(name, mixing=chain[k + 1 :]).is_defined(len(mixed), f):
                rows = mixed
        else:
            order = torch.randperm(len(rows), generator=generator).tolist()
            s = 2 if each == "bucketing" else each["s"]
            rows = reference_filters.bucketing(rows, f, order, s=s)
    return rows


def matrix(name, rows, f, **options):
    drawn = {"generator": seeded()} if name == "bucketing" else {}
    return MIXINGS[name].function(gram(rows), f=f, **options, **drawn).matrix


def largest_f(name, chain, rows, most):
    """The most liars, up to a number, for whom the mixings leave the rule enough rows; or None."""
    for f in range(most, -1, -1):
        fewest = plan(name, mixing=chain).min_clients(f, most=len(rows))
        if fewest is not None and fewest <= len(rows):
            return f
    return None


def tied_by_rounding(name, chain, case):
    return (name == "krum" and "coordinate" in case) or (
        chain == ("arc", "nnm") and case == "a zero row"
    )


def test_every_mixing_has_a_reference():
    assert {"nnm", *reference_filters.MIXINGS} <= set(MIXINGS)


@pytest.mark.parametrize(
    ("name", "chain", "dtype"), in_a_dtype(["mean", "krum", "trimmed_mean", "cge"], CHAINS)
)
def test_chains_agree_with_the_reference(name, chain, dtype):
    # To the scale of the rows: after clipping, rows of +radius and -radius may cancel to zero.
    agreed = 0
    for case, (rows, f) in {**CASES, **SPECIAL}.items():
        f = largest_f(name, chain, rows, f)
        if f is None or tied_by_rounding(name, chain, case):
            continue
        rows = rows.to(dtype)
        plain = rows.to(torch.float64)
        mixed = mixed_by_loops(name, chain, plain.numpy(), f)
        want = {**reference.RULES, **reference_filters.RULES}[name](mixed, f)
        got = aggregate(rows, name, f=f, mixing=chain, generator=seeded())
        scale = max(np.abs(want).max(), float(plain.abs().median()))
        gap = np.abs(got.to(torch.float64).numpy() - want).max()
        assert gap <= (1e-10 if dtype == torch.float64 else 1e-6) * scale, case
        agreed += 1
    assert agreed >= 15


@pytest.mark.parametrize("case", ["gaussian", "outliers", "offset, spread 1", "lora sized"])
@pytest.mark.parametrize("name", MIXINGS)
def test_mixing_the_gram_is_mixing_the_rows(name, case):
    # W G Wᵀ against the Gram of the rows that W makes.
    rows, f = CASES[case]
    mixing = matrix(name, rows, f)
    got, want = gram(rows).mixed(mixing), gram(mixing @ rows)
    assert torch.allclose(got.norms(), want.norms(), rtol=1e-8)
    scale = float(want.norms().median()) ** 2
    near = want.squared_distances() < 100 * scale  # a payload's own distance is not the point
    gap = (got.squared_distances() - want.squared_distances()).abs()
    assert float(gap[near].max()) <= 1e-10 * scale


@pytest.mark.parametrize("name", [name for name in MIXINGS if name != "bucketing"])
def test_mixing_alone_is_the_reference_s(name):
    for rows, f in CASES.values():
        loops = {"nnm": reference.nnm, **reference_filters.MIXINGS}[name]
        got, want = (matrix(name, rows, f) @ rows).numpy(), loops(rows.numpy(), f)
        assert np.abs(got - want).max() <= 1e-10 * np.abs(want).max()


def test_clipping():
    # 1 2 -6: the median norm is 2, so 1 2 -2. At radius 1: 1 1 -1.
    result = aggregate_with_report(column(1, 2, -6), "mean", f=1, mixing=("clipping",))
    assert result.aggregate.tolist() == pytest.approx([1 / 3])
    assert result.report["mixing[0].clipping.radius"] == pytest.approx(2)
    assert result.report["mixing[0].clipping.shrink"] == pytest.approx([1, 1, 1 / 3])
    assert result.weights.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 9])
    chain = ({"name": "clipping", "radius": 1},)
    assert aggregate(column(1, 2, -6), "mean", f=1, mixing=chain).tolist() == pytest.approx([1 / 3])
    # 1 2 4 6, an even count: 3.
    result = aggregate_with_report(column(1, 2, 4, 6), "mean", f=1, mixing=("clipping",))
    assert result.aggregate.tolist() == pytest.approx([9 / 4])


def test_arc():
    # n = 5, f = 1: floor(2 * 4 / 5) = 1, 100 is cut to 4. f = 2: floor(4 * 3 / 5) = 2, cut to 3.
    rows = column(1, 2, 3, 4, -100)
    result = aggregate_with_report(rows, "mean", f=1, mixing=("arc",))
    assert result.aggregate.tolist() == pytest.approx([6 / 5])
    assert result.report["mixing[0].arc.clipped"] == 1
    result = aggregate_with_report(rows, "mean", f=2, mixing=("arc",))
    assert result.aggregate.tolist() == pytest.approx([6 / 5])
    assert result.report["mixing[0].arc.shrink"] == pytest.approx([1, 1, 1, 0.75, 0.03])
    assert aggregate(rows, "mean", f=0, mixing=("arc",)).tolist() == pytest.approx([-18])


def test_arc_counts_in_whole_numbers():
    # 2 * 33 * 209 / 242 = 57; int(2 * 33 / 242 * 209) is 56.
    rows = torch.arange(1, 243, dtype=torch.float64).reshape(-1, 1)
    facts = MIXINGS["arc"].function(gram(rows), f=33).facts
    assert facts["clipped"] == 57
    assert facts["radius"] == 242 - 57


def test_bucketing():
    # Five clients in twos: three buckets, the last of one. The mean is that of the three means.
    rows = column(1, 2, 4, 8, 16)
    a, b, c, d, e = torch.randperm(5, generator=seeded()).tolist()
    result = aggregate_with_report(rows, "mean", f=0, mixing=("bucketing",), generator=seeded())
    x = rows.flatten().tolist()
    assert result.aggregate.tolist() == pytest.approx(
        [((x[a] + x[b]) / 2 + (x[c] + x[d]) / 2 + x[e]) / 3]
    )
    bucket = result.report["mixing[0].bucketing.bucket"]
    assert [bucket[i] for i in (a, b, c, d, e)] == [0, 0, 1, 1, 2]
    assert result.weights[[a, b, c, d, e]].tolist() == pytest.approx([1 / 6] * 4 + [1 / 3])


def test_buckets_of_all_and_of_one():
    rows = gaussian(9, 20)
    chain = ({"name": "bucketing", "s": 9},)
    one = aggregate(rows, "median", f=0, mixing=chain, generator=seeded())
    assert torch.allclose(one, rows.mean(dim=0), rtol=1e-12)
    chain = ({"name": "bucketing", "s": 1},)
    each = aggregate(rows, "median", f=2, mixing=chain, generator=seeded())
    assert torch.allclose(each, aggregate(rows, "median", f=2), rtol=1e-12)
    alone = aggregate(rows[:1], "median", f=0, mixing=chain, generator=seeded())
    assert torch.equal(alone, rows[0])


def test_bucketing_draws_from_its_generator():
    rows = gaussian(12, 20)
    one, two = seeded(1), seeded(1)
    for _ in range(3):
        a = aggregate(rows, "median", f=2, mixing=("bucketing",), generator=one)
        assert torch.equal(a, aggregate(rows, "median", f=2, mixing=("bucketing",), generator=two))
    other = aggregate(rows, "median", f=2, mixing=("bucketing",), generator=seeded(2))
    assert not torch.equal(a, other)


def test_a_clipped_reference_row_leaves_the_norms():
    # The row of median norm is the Gram's reference. Mixed with the origin to a norm equal to its
    # own, its diagonal is 0 but for rounding, may be -1e-17, and the root of that was every norm.
    rows, f = CASES["one coordinate"]
    mixing = matrix("clipping", rows, f)
    norms = gram(rows).mixed(mixing).norms()
    assert torch.allclose(norms, (mixing @ rows).norm(dim=1), rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "chain", "f", "message"),
    [
        ("mean", ("bucketing",), 0, "bucketing needs a generator: got None; hand in generator="),
        ("mean", ({"name": "bucketing", "s": 12},), 0, "bucketing needs 1 <= s <= n: got s=12"),
        ("mean", ({"name": "bucketing", "s": 0},), 0, "bucketing needs s >= 1, a whole number"),
        ("krum", ("bucketing",), 2, r"krum needs n >= 2f \+ 3: got n=6, f=2; .*leave 6 rows of 11"),
        ("mean", ("bucketing", "arc"), 3, r"arc needs n >= 2f \+ 1: got n=6, f=3"),
        ("mean", ("arc",), 6, r"arc needs n >= 2f \+ 1: got n=11, f=6"),
        ("mean", ("clipping",), 6, r"clipping needs n >= 2f \+ 1: got n=11, f=6"),
        ("mean", ({"name": "clipping", "radius": 0},), 1, "clipping needs radius >= 1e-30"),
        ("mean", ({"name": "arc", "radius": 1},), 1, "unknown option of arc: got 'radius'"),
    ],
)
def test_refusals(name, chain, f, message):
    with pytest.raises(ValueError, match=message):
        aggregate(gaussian(11, 4), name, f=f, mixing=chain)
