"""The rules on columns: numbers worked by hand, and slow float64 loops of the papers.

Not proven here: that the definitions are good ones, speed, any device but the CPU, the
invariants that hold for every rule (test_rule_invariants.py), and Bulyan's picks (test_bulyan.py).
"""

import itertools
import re

import numpy as np
import pytest
import reference
import reference_columns
import torch
from calls import in_a_dtype

from aggregators import aggregate, aggregate_with_report
from aggregators.rules.columns.windows import around_median

RULES = {
    "median": reference.median,
    "trimmed_mean": reference.trimmed_mean,
    **reference_columns.RULES,
}


def column(*values):
    return torch.tensor(values, dtype=torch.float64).reshape(-1, 1)


def gaussian(n, d, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype)


def test_meamed():
    # 0 1 2 10, f = 1: median 1.5, distances 1.5 0.5 0.5 8.5. 0 1 2 stay, 1.
    result = aggregate_with_report(column(10, 0, 2, 1), "meamed", f=1)
    assert result.aggregate.tolist() == [1]
    assert result.weights.tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])
    # 0 4 5 9.5 10, f = 1: median 5, distances 5 1 0 4.5 5. 0 and 10 tie, the lower stays: 18.5 / 4.
    assert aggregate(column(10, 9.5, 5, 4, 0), "meamed", f=1).tolist() == [4.625]
    # f = 2: 4 5 9.5, 18.5 / 3.
    assert aggregate(column(10, 9.5, 5, 4, 0), "meamed", f=2).tolist() == pytest.approx([18.5 / 3])


def test_phocas():
    # The same column, f = 1: trimmed mean 18.5 / 3 = 6.17, distances 6.17 2.17 1.17 3.33 3.83.
    # 0 goes: 28.5 / 4, where MeaMed says 4.625.
    result = aggregate_with_report(column(10, 9.5, 5, 4, 0), "phocas", f=1)
    assert result.aggregate.tolist() == [7.125]
    assert result.weights.tolist() == [0.25, 0.25, 0.25, 0.25, 0]
    # 0 1 2, f = 1: trimmed mean 1; 0 and 2 tie, the lower stays.
    assert aggregate(column(2, 1, 0), "phocas", f=1).tolist() == [0.5]


VOTES = torch.tensor([[1.0, -2.0, 0.0], [3.0, -1.0, 0.0], [-5.0, -4.0, 2.0]], dtype=torch.float64)
# Signs + - 0, + - 0, - - +: sums 1, -3, 1.


def test_sign_majority():
    result = aggregate_with_report(VOTES, "sign_majority", f=1, step=0.5)
    assert result.aggregate.tolist() == [0.5, -0.5, 0.5]
    # Row 0 and 1 win coordinates 0 and 1, row 2 wins 1 and 2.
    assert result.report["kept_share"] == pytest.approx([2 / 3, 2 / 3, 2 / 3])
    # Root mean squares: sqrt(5/3), sqrt(10/3), sqrt(45/3). The median is the step.
    length = (10 / 3) ** 0.5
    got = aggregate(VOTES, "sign_majority", f=1)
    assert got.tolist() == pytest.approx([length, -length, length])


def test_a_tied_vote_is_no_step():
    result = aggregate_with_report(column(1, -1e8, 0), "sign_majority", f=1, step=1)
    assert result.aggregate.tolist() == [0]
    assert result.report["kept_share"] == [0, 0, 1]


@pytest.mark.parametrize(
    ("dtype", "exponent"),
    [(torch.float16, -24), (torch.bfloat16, -133), (torch.float32, -149), (torch.float64, -1074)],
)
def test_the_smallest_numbers_have_a_vote(dtype, exponent):
    least = torch.tensor(2.0**exponent, dtype=dtype)
    assert float(least) > 0
    rows = torch.stack([least, least, -least]).reshape(3, 1)
    for side in (1, -1):
        result = aggregate_with_report(side * rows, "sign_majority", f=1, step=1)
        assert result.aggregate.tolist() == [side]
        assert result.report["kept_share"] == [1, 1, 0]


RATES = torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 0.0], [6.0, -6.0, 5.0]], dtype=torch.float64)
# Sums of signs 3, 1, 2; means 3, -1, 2.


@pytest.mark.parametrize(
    ("theta", "expected"),
    [(None, [3, 1, -2]), (3, [3, 1, -2]), (2, [3, 1, 2]), (1, [3, -1, 2])],
)
def test_rlr(theta, expected):
    # None is 2f + 1 = 3.
    result = aggregate_with_report(RATES, "rlr", f=1, theta=theta)
    assert result.aggregate.tolist() == pytest.approx(expected)
    assert result.report["kept_share"] == [1, 1, 1]


def mixed_scales(n, f, d, seed):
    rows = gaussian(n, d, seed)
    rows[1 : 2 * f : 2] *= 1e8
    return rows


def duplicated(n, d, seed):
    rows = gaussian(n, d, seed)
    rows[3] = rows[n - 1]
    rows[4] = rows[n - 1]
    rows[2] = rows[1]
    return rows


CORNERS = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)
CASES = {  # name -> (rows, f)
    "gaussian": (gaussian(11, 37), 2),
    "even": (gaussian(12, 5, seed=3), 2),
    "two rows picked twice over": (gaussian(15, 9, seed=14), 3),
    "no liar": (gaussian(7, 11, seed=4), 0),
    "outliers": (mixed_scales(11, 2, 13, 1), 2),
    "outliers, many": (mixed_scales(60, 12, 13, 1), 12),
    "offset, spread 1": (gaussian(11, 17, seed=5) + 1000, 2),
    "offset, spread 1e-3": (gaussian(11, 17, seed=6) * 1e-3 + 1000, 2),
    "lora sized": (gaussian(11, 17, seed=7) * 1e-9, 2),
    "huge": (gaussian(11, 17, seed=8) * 1e30, 2),
    "duplicates": (duplicated(11, 9, 2), 2),
    "ties": (torch.cat([CORNERS, CORNERS[[5, 2, 7]]]), 2),
    "n = 30": (gaussian(30, 7, seed=9), 6),
    "n = 48": (gaussian(48, 7, seed=9), 11),
    "n = 49": (gaussian(49, 7, seed=9), 11),
    "n = 60": (gaussian(60, 7, seed=9), 14),
    "n = 60, integers": (gaussian(60, 7, seed=9).mul(3).round(), 14),
    "one coordinate": (gaussian(13, 1, seed=10), 2),
    "one coordinate, even": (gaussian(12, 1, seed=11), 2),
}


def assert_close(got, want, tolerance):
    gap = np.abs(got.to(torch.float64).numpy() - want).max()
    assert gap <= tolerance * np.abs(want).max(), gap / np.abs(want).max()


@pytest.mark.parametrize(("name", "case", "dtype"), in_a_dtype(RULES, CASES))
def test_agrees_with_the_definition(name, case, dtype):
    rows, f = CASES[case]
    rows = rows.to(dtype)
    want = RULES[name](rows.to(torch.float64).numpy(), f)
    assert_close(aggregate(rows, name, f=f), want, 1e-10 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("m", range(1, 15))
def test_every_window_of_columns_full_of_ties(m):
    # Whole numbers 0 to 4: sums are exact, so the means are equal, not only close.
    block = torch.randint(0, 5, (m, 200), generator=torch.Generator().manual_seed(m)).double()
    for count in range(1, m + 1):
        kept = around_median(block, count=count)
        for k in range(block.shape[1]):
            values = block[:, k].tolist()
            middle = reference_columns._middle(values)
            want = sorted(values, key=lambda value: (abs(value - middle), value))[:count]
            assert kept.values[k] == sum(want) / count
            assert (kept.low[k], kept.high[k]) == (min(want), max(want))


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "meamed", "phocas", "bulyan"])
@pytest.mark.parametrize("n", [3, 7, 10, 48, 49, 60])
def test_equal_float64_rows_come_back_bit_for_bit(name, n):
    # Summed and divided, 3 * 0.1 / 3 is 0.10000000000000002.
    row = torch.cat([gaussian(1, 500)[0], torch.tensor([0.1, 1e30, 1e-300, 0.0])])
    f = (n - 3) // 4
    assert torch.equal(aggregate(row.repeat(n, 1), name, f=f), row)


@pytest.mark.parametrize("name", ["trimmed_mean", "meamed", "phocas", "bulyan", "median"])
def test_a_payload_leaves_no_trace(name):
    # The honest values are 1 to 7 thousandths; 1e8 and -1e8 in a running sum would leave 1e-8.
    honest = torch.arange(1, 10, dtype=torch.float64)[:, None] * 1e-3
    for payload in ([1e8, 1e8], [-1e8, 1e8], [-1e8, -1e8]):
        rows = torch.cat([column(*payload), honest])
        assert_close(aggregate(rows, name, f=2), RULES[name](rows.numpy(), 2), 1e-15)


def refuse(message):
    return pytest.raises(ValueError, match=re.escape(message))


@pytest.mark.parametrize(
    ("name", "fewest", "condition"),
    [
        ("meamed", 5, "n >= 2f + 1"),
        ("phocas", 5, "n >= 2f + 1"),
        ("bulyan", 11, "n >= 4f + 3"),
        ("sign_majority", 5, "n >= 2f + 1"),
        ("rlr", 5, "n >= 2f + 1"),
    ],
)
def test_too_few_clients_are_refused(name, fewest, condition):
    assert aggregate(gaussian(fewest, 3), name, f=2).shape == (3,)
    needs = f"{name} needs {condition}: got n={fewest - 1}, f=2; lower f or wait for {fewest}"
    with refuse(needs):
        aggregate(gaussian(fewest - 1, 3), name, f=2)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rlr", {"theta": 10}, "rlr needs 1 <= theta <= n: got theta=10, n=9; set theta to 9 or"),
        ("rlr", {"theta": 0}, "rlr needs theta >= 1, a whole number, or null: got 0"),
        ("rlr", {"theta": 2.5}, "got 2.5"),
        ("sign_majority", {"step": 0}, "sign_majority needs step >= 1e-30, a finite number, or"),
        ("sign_majority", {"step": -1.0}, "got -1.0"),
        ("sign_majority", {"scale": 1.0}, "unknown option of sign_majority: got 'scale'"),
        ("meamed", {"m": 3}, "unknown option of meamed: got 'm'; known: none"),
    ],
)
def test_options_out_of_bounds_are_refused(name, options, message):
    with refuse(message):
        aggregate(gaussian(9, 2), name, f=2, **options)
