"""The filters: CGE, DnC, FLTrust, FoolsGold, FLAME and norm clipping.

Numbers worked by hand, agreement with slow loops of the papers (reference_filters.py), noise,
refusals. FoolsGold by hand and over rounds: test_foolsgold.py.

Not proven here: that these rules defend well; none of them has a bound. That FLAME's cluster is
HDBSCAN's is proven against the connected sets of its definition; scikit-learn is no dependency.
"""

import math

import pytest
import reference_filters
import torch
from calls import in_a_dtype
from test_rules_against_reference import CASES, assert_close, gaussian

from aggregators import AGGREGATORS, aggregate, aggregate_with_report
from aggregators.engine.gram import gram
from aggregators.rules.gram.flame import majority_cluster

RULES = list(reference_filters.RULES)


def column(*values):
    return torch.tensor(values, dtype=torch.float64).reshape(-1, 1)


def at_degrees(*degrees, lengths):
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    lengths = torch.tensor(lengths, dtype=torch.float64)
    return torch.stack([lengths * angles.cos(), lengths * angles.sin()], dim=1)


def run(rows, name, f=0, **options):
    return aggregate_with_report(rows, name, f=f, **options)


def served(name, rows):
    """The server's update, for the rule that takes one: the median row."""
    return {"reference": rows.median(dim=0).values} if name == "fltrust" else {}


def expected(name, rows, f, **options):
    as_numpy = {k: v.to(torch.float64).numpy() for k, v in served(name, rows).items()}
    rows = rows.to(torch.float64).numpy()
    return reference_filters.RULES[name](rows, f, **as_numpy, **options)


SPECIAL = {  # name -> (rows, f)
    "one client": (gaussian(1, 9), 0),
    "one zero client": (torch.zeros(1, 4, dtype=torch.float64), 0),
    "a zero row": (torch.cat([torch.zeros(1, 9), gaussian(8, 9)]).to(torch.float64), 2),
    "mostly zeros": (torch.cat([torch.zeros(6, 9), gaussian(3, 9)]).to(torch.float64), 2),
    "all zeros": (torch.zeros(7, 4, dtype=torch.float64), 2),
    "all equal": (gaussian(1, 9).repeat(7, 1), 2),
    "payload 1e8": (torch.cat([torch.full((2, 9), 1e8), gaussian(9, 9)]).to(torch.float64), 2),
    "payload 1e30": (torch.cat([torch.full((1, 9), 1e30), gaussian(9, 9)]).to(torch.float64), 1),
    "tiny": (gaussian(9, 9) * 1e-12, 2),
    "two sides": (torch.cat([gaussian(5, 9), -2 * gaussian(5, 9)]), 1),
}


@pytest.mark.parametrize(("name", "case", "dtype"), in_a_dtype(RULES, [*CASES, *SPECIAL]))
def test_agrees_with_the_reference(name, case, dtype):
    rows, f = {**CASES, **SPECIAL}[case]
    rows = rows.to(dtype)
    got, want = aggregate(rows, name, f=f, **served(name, rows)), expected(name, rows, f)
    assert got.isfinite().all()
    if want.any():
        assert_close(got, want, 1e-10 if dtype == torch.float64 else 1e-6)
    else:
        assert torch.equal(got, torch.zeros_like(got))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dnc", {"c": 0.5}),
        ("dnc", {"c": 2.5}),
        ("foolsgold", {"kappa": 0.1}),
        ("foolsgold", {"kappa": 5.0}),
        ("norm_clip", {"radius": 3.0}),
    ],
)
def test_options_mean_what_the_reference_means(name, options):
    rows, f = gaussian(11, 9) + 0.5, 3
    got = aggregate(rows, name, f=f, **options)
    assert_close(got, expected(name, rows, f, **options), 1e-10)
    assert not torch.equal(got, aggregate(rows, name, f=f))


def test_cge():
    # Norms 3 1 2 9, f = 1: (3 - 1 + 2) / 3, the mean and not the paper's sum.
    result = run(column(3, -1, 2, -9), "cge", f=1)
    assert result.aggregate.tolist() == pytest.approx([4 / 3])
    assert result.report["selected"] == [1, 2, 0]
    # Three of norm 5, and rounding may say otherwise of 0.1 * (3, 4): the first two stay.
    rows = torch.tensor([[0.5, 0], [0.3, 0.4], [0, 0.5]], dtype=torch.float64)
    assert run(rows, "cge", f=1).report["selected"] == [0, 1]


def test_dnc():
    # 0 1 2 9 about their mean 3: scores 9 4 1 36. c = 1 drops the last, c = 2 the first too.
    result = run(column(0, 1, 2, 9), "dnc", f=1)
    assert result.report["scores"] == pytest.approx([9, 4, 1, 36])
    assert result.aggregate.tolist() == pytest.approx([1])
    result = run(column(0, 1, 2, 9), "dnc", f=1, c=2)
    assert result.aggregate.tolist() == pytest.approx([1.5])
    assert result.report["dropped"] == [0, 3]
    # Spread along x: y counts nothing, the two ends tie, and the last is dropped: (4, 0) / 3.
    rows = torch.tensor([[0.0, 1.0], [0.0, -1.0], [4.0, 0.0], [-4.0, 0.0]])
    result = run(rows, "dnc", f=1)
    assert result.report["scores"] == pytest.approx([0, 0, 16, 16], abs=1e-12)
    assert result.aggregate.tolist() == pytest.approx([4 / 3, 0])


def test_dnc_where_no_direction_is_the_main_one():
    # A square: x and y have the same spread, and every corner projects 1 on the two together.
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    result = run(rows, "dnc", f=1)
    assert result.report["scores"] == pytest.approx([1] * 4)
    assert result.report["dropped"] == [3]


def test_dnc_counts_in_decimals():
    # 1.12 * 25 is 28.000000000000004 in floats, and 28 clients are to go, not 29.
    assert len(run(gaussian(51, 3), "dnc", f=25, c=1.12).report["dropped"]) == 28


def test_fltrust():
    # The server's (2, 0). (1, 0): cos 1, twice its length. (3, 4): cos 3/5, at length 2
    # (1.2, 1.6). (-1, 0): none. ((2, 0) + 0.6 (1.2, 1.6)) / 1.6 = (1.7, 0.6).
    rows = torch.tensor([[1.0, 0.0], [3.0, 4.0], [-1.0, 0.0]])
    result = run(rows, "fltrust", f=1, reference=torch.tensor([2.0, 0.0]))
    assert result.aggregate.tolist() == pytest.approx([1.7, 0.6])
    assert result.weights.tolist() == pytest.approx([2 / 1.6, 0.6 * 2 / 5 / 1.6, 0])
    assert result.report["trust"] == pytest.approx([1, 0.6, 0])
    assert result.report["trusted"] == 2


@pytest.mark.parametrize("server", [[-1.0, -1.0], [0.0, 0.0]])
def test_fltrust_of_nobody_changes_nothing(server):
    result = run(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), "fltrust", reference=torch.tensor(server))
    assert result.aggregate.tolist() == [0, 0]
    assert result.weights.tolist() == [0, 0]
    assert result.report["trusted"] == 0


def test_fltrust_is_blind_to_length():
    # 1e30 times the length changes nothing but the weight.
    rows, server = gaussian(7, 20), gaussian(1, 20, seed=1)[0]
    longer = rows.clone()
    longer[2] *= 1e30
    want = aggregate(rows, "fltrust", f=3, reference=server)
    assert torch.allclose(aggregate(longer, "fltrust", f=3, reference=server), want, rtol=1e-12)


def test_flame():
    # 0 10 21 degrees and one against them: three of four are joined at 11 degrees. The median
    # of the lengths 1 2 3 9 is 2.5: weights 1/3 1/3 and 2.5/3 of it.
    rows = at_degrees(0, 10, 21, 180, lengths=[1, 2, 3, 9])
    result = run(rows, "flame", f=1)
    assert result.report["accepted"] == [0, 1, 2]
    assert result.report["radius"] == pytest.approx(2.5)
    assert result.report["reach"] == pytest.approx(1 - math.cos(math.radians(11)))
    assert result.weights.tolist() == pytest.approx([1 / 3, 1 / 3, 2.5 / 9, 0])


def test_flame_takes_the_first_majority_and_all_that_joins_at_its_distance():
    # 50-60 join at 10 degrees, 30 at 20: three of five. 0 would join at 30.
    rows = at_degrees(0, 30, 50, 60, 170, lengths=[1] * 5)
    assert run(rows, "flame", f=2).report["accepted"] == [1, 2, 3]
    # Every gap is 10 degrees: all join at once, and HDBSCAN keeps all.
    rows = at_degrees(0, 10, 20, 30, 90, lengths=[1, 7, 1, 1, 1])
    assert run(rows, "flame", f=2).report["accepted"] == [0, 1, 2, 3]


@pytest.mark.parametrize("seed", range(40))
def test_the_majority_cluster_is_the_first_connected_majority(seed):
    # Whole coordinates, so that many distances tie.
    generator = torch.Generator().manual_seed(seed)
    n = 1 + seed % 13
    rows = torch.randint(0, 4, (n, 2), generator=generator).to(torch.float64)
    distances = torch.cdist(rows, rows).square().round()
    got = majority_cluster(distances)[0].nonzero().flatten().tolist()
    assert got == reference_filters.majority(distances.tolist())


def test_norm_clip():
    # 1 2 6: the median is 2, so 1 2 2; at radius 1, 1 1 1.
    result = run(column(1, 2, 6), "norm_clip", f=1)
    assert result.aggregate.tolist() == pytest.approx([5 / 3])
    assert result.weights.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 9])
    assert result.report["radius"] == pytest.approx(2)
    assert aggregate(column(1, -2, 6), "norm_clip", f=1, radius=1).tolist() == pytest.approx(
        [1 / 3]
    )


@pytest.mark.parametrize("name", ["norm_clip", "flame"])
def test_noise_is_seeded_and_of_the_size_asked_for(name):
    rows, seeded = gaussian(9, 20_000), torch.Generator().manual_seed
    plain = run(rows, name, f=2)
    noisy = aggregate(rows, name, f=2, noise=0.1, generator=seeded(5))
    assert torch.equal(noisy, aggregate(rows, name, f=2, noise=0.1, generator=seeded(5)))
    assert not torch.equal(noisy, aggregate(rows, name, f=2, noise=0.1, generator=seeded(6)))
    added = noisy - plain.aggregate
    size = 0.1 * plain.report["radius"]
    assert float(added.std()) == pytest.approx(size, rel=0.02)  # 4 standard errors
    assert abs(float(added.mean())) < 4 * size / 20_000**0.5
    with pytest.raises(ValueError, match="noise needs a generator: got None"):
        aggregate(rows, name, f=2, noise=0.1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cge", {"f": 4}, r"cge needs n >= 2f \+ 1: got n=8, f=4; lower f or wait for 9 clients"),
        ("dnc", {"f": 2, "c": 4}, r"dnc needs ceil\(c f\) < n: got c=4, f=2, n=8; lower c or f"),
        ("dnc", {"f": 2, "c": -1}, "dnc needs c >= 0, a finite number: got -1"),
        ("fltrust", {"f": 2}, "fltrust needs the server's own update: got no reference"),
        ("flame", {"f": 2, "noise": -0.1}, "flame needs noise >= 0, a finite number: got -0.1"),
        ("foolsgold", {"f": 2, "kappa": 0}, "foolsgold needs 1e-06 <= kappa <= 1e"),
        ("foolsgold", {"f": 2, "mixing": ("nnm",)}, "foolsgold takes no mixing"),
        ("norm_clip", {"f": 2, "radius": 0.0}, "norm_clip needs radius >= 1e-30"),
    ],
)
def test_refusals(name, options, message):
    with pytest.raises(ValueError, match=message):
        aggregate(gaussian(8, 4), name, **options)


def test_fltrust_needs_the_server_s_update_in_a_gram_handed_in():
    with pytest.raises(ValueError, match=r"fltrust needs one extra point, .* got 0; compute"):
        AGGREGATORS["fltrust"].function(gram(gaussian(8, 4)), f=0)
