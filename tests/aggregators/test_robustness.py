"""(f, kappa)-robustness of the rules with a published bound, over random attacks.

For every subset S of n - f clients, ||F - mean_S||² <= kappa / |S| * sum_S ||x_i - mean_S||²
(Allouah et al. 2023, https://arxiv.org/abs/2302.01772, Definition 2 and Table 1). Checked over
all subsets, so no one need say who lies.

Not proven here: the bounds themselves, attacks that were not drawn, and rules without a bound
(mean, multi-Krum, centered clipping from the origin).
"""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregators import AGGREGATORS, aggregate

# Every bound that a rule's listing states as published.
KAPPA = {name: rule.bound for name, rule in AGGREGATORS.items() if rule.bound is not None}
# What a mixing before the rule makes of its kappa.
AFTER = {
    (): lambda kappa, n, f: kappa,
    ("nnm",): lambda kappa, n, f: 8 * f / (n - f) * (kappa + 1),
    ("arc",): lambda kappa, n, f: kappa + 2 * f / (n - 2 * f),
}


def attack(rows, f, kind, scale):
    honest = rows[f:]
    center, spread = honest.mean(dim=0), honest.std(dim=0)
    if kind == "sign flip":
        return -scale * center.expand(f, -1)
    if kind == "alie":
        return (center - scale * spread).expand(f, -1)
    if kind == "mimic":
        return honest[:1].expand(f, -1)
    if kind == "apart":  # liars that do not agree with each other
        return scale * rows[:f]
    return (center + scale).expand(f, -1)


@st.composite
def poisoned(draw, least):
    """Rows of which the first f lie, n up to 9 and f up to what the condition allows."""
    f = draw(st.integers(1, 3))
    n = draw(st.integers(least(f), max(9, least(f))))
    d = draw(st.integers(1, 6))
    seed = draw(st.integers(0, 10_000))
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows = rows + draw(st.sampled_from([0.0, 5.0]))
    kind = draw(st.sampled_from(["sign flip", "alie", "mimic", "apart", "payload"]))
    rows[:f] = attack(rows.clone(), f, kind, 10 ** draw(st.floats(-2, 8)))
    return rows, f


def worst_ratio(point, rows, f):
    """Largest ||F - mean_S||² over the mean squared deviation in S, over all S."""
    n = len(rows)
    subsets = rows[torch.tensor(list(itertools.combinations(range(n), n - f)))]
    means = subsets.mean(dim=1)
    off = (point - means).square().sum(dim=1)
    spread = (subsets - means[:, None]).square().sum(dim=2).mean(dim=1)
    rounding = 1e-24 * means.square().sum(dim=1)
    ratios = torch.where(off > rounding, off / spread, 0.0)  # 0/0 where a subset is one point
    return float(ratios.max())


def test_the_bounds_are_the_papers():
    # Allouah et al. 2023, Table 1, at n = 9, f = 2: f/(n-2f) = 2/5.
    assert KAPPA["trimmed_mean"](9, 2) == pytest.approx(6 * 0.4 * 1.4)
    assert KAPPA["krum"](9, 2) == pytest.approx(6 * 1.4)
    assert KAPPA["median"](9, 2) == KAPPA["geometric_median"](9, 2) == pytest.approx(4 * 1.4**2)
    assert {"mda", "smea", "minimum_variance"} <= set(KAPPA)


@pytest.mark.parametrize("examples", [40, pytest.param(400, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mixing", AFTER, ids="+".join)
@pytest.mark.parametrize("name", KAPPA)
def test_no_attack_exceeds_the_bound(name, mixing, examples):
    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @given(poisoned(AGGREGATORS[name].min_clients))
    def check(case):
        rows, f = case
        n = len(rows)
        kappa = AFTER[mixing](KAPPA[name](n, f), n, f)
        ratio = worst_ratio(aggregate(rows, name, f=f, mixing=mixing), rows, f)
        assert ratio <= kappa * (1 + 1e-6)

    check()


def test_the_mean_exceeds_every_bound():
    # The same measure on a rule that is no defence: one liar of 7 at 1e6.
    rows = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows[0] = 1e6
    assert worst_ratio(aggregate(rows, "mean", f=1), rows, 1) > 1e9
    assert worst_ratio(aggregate(rows, "trimmed_mean", f=1), rows, 1) < 1
