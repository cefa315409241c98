"""How many clients a chain can leave without weight: never more than said, and as many as said.

Rows are drawn to provoke it: a tight cluster among noise, opposite halves, one that is far. Not
proven here: that no rows leave out more.
"""

import pytest
import torch

import aggregators
from fedtune.recipe import parse_recipe
from fedtune.runs.checks.weightless import most_weightless

N, D = 10, 8


def drawn(seed):
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(N, D, generator=draw, dtype=torch.float64)
    if seed % 4 == 1:
        rows[: 3 + seed % 5] = rows[0] + 1e-3 * rows[: 3 + seed % 5]
    if seed % 4 == 2:
        rows[: N // 2] += 3
    if seed % 4 == 3:
        rows[-1] *= 100
    return rows + (seed % 3)


def recipe_of(f, **aggregator):
    return parse_recipe({"federation": {"num_clients": N}, "aggregator": {"f": f, **aggregator}})


def most_seen(f, name, mixing=(), **options):
    seen = 0
    for seed in range(16):
        generator = torch.Generator().manual_seed(seed)
        report = aggregators.aggregate_with_report(
            drawn(seed), name, f=f, mixing=mixing, generator=generator, **options
        )
        seen = max(seen, int((report.weights == 0).sum()))
    return seen


EXACT = [
    ("krum", 3, [], {}, 9),
    ("multi_krum", 3, [], {}, 3),
    ("multi_krum", 3, [], {"m": 4}, 6),
    ("mda", 3, [], {}, 3),
    ("minimum_variance", 3, [], {}, 3),
    ("smea", 3, [], {}, 3),
    ("cge", 3, [], {}, 3),
    ("dnc", 3, [], {"c": 1.5}, 5),  # of 4.5
    ("krum", 3, ["nnm"], {}, 3),
    ("krum", 1, ["bucketing"], {}, 8),  # a pair is left
]


@pytest.mark.parametrize(("name", "f", "mixing", "options", "most"), EXACT)
def test_rules_that_pick_leave_out_as_many_as_is_said(name, f, mixing, options, most):
    assert most_weightless(recipe_of(f, name=name, mixing=mixing, **options)) == most
    assert most_seen(f, name, mixing, **options) == most


WEIGHED = [name for name, rule in aggregators.AGGREGATORS.items() if rule.kind == "gram"]


@pytest.mark.parametrize("mixing", [[], ["agreement"], ["nnm"]])
@pytest.mark.parametrize("name", sorted({*WEIGHED} - {"fltrust", "foolsgold", "geometric_median"}))
def test_no_chain_leaves_out_more_than_is_said(name, mixing):
    said = most_weightless(recipe_of(3, name=name, mixing=mixing))
    assert most_seen(3, name, mixing) <= said


def test_caf_leaves_out_nearly_twice_f():
    # Its weights sum to more than n - 2f, and who has none gave one away: at most 2f - 1 = 5.
    assert most_weightless(recipe_of(3, name="caf")) == 5
    assert most_weightless(recipe_of(3, name="caf", mixing=["agreement"])) == 8
    assert most_weightless(recipe_of(0, name="caf")) == 0
    assert most_seen(3, "caf") > 3


def test_rules_that_weigh_everyone_leave_out_nobody():
    for name in ("mean", "geometric_median", "norm_clip", "centered_clipping", "trimmed_mean"):
        assert most_weightless(recipe_of(3, name=name)) == 0
