"""Rounds in product space: equalities with factors, other gauges, other ranks, reports.

Rows are of two made-up modules of different shapes and a head; what a change means is checked on
dense float64 matrices. Not proven here: training itself, see test_gauge_in_a_run.py.
"""

import numpy as np
import pytest
import torch
from product_server import (
    LAYOUT,
    MODULES,
    RANK,
    Round,
    b_only,
    close,
    drawn,
    moved,
    products,
    recipe_of,
    turned,
)

from aggregators.geometry import Change
from fedtune.adapters.part import Part
from fedtune.adapters.ranks import narrow
from fedtune.round.broadcast import Broadcast


def test_fedavg_with_nobody_moving_a_is_fedavg_on_factors():
    anchor, rows = drawn(0), b_only([drawn(k, scale=0.1) for k in range(1, 6)])
    round_ = Round(recipe_of(5, aggregator={"name": "mean"}), anchor)
    round_.run(rows)
    want = anchor + torch.stack(rows).double().mean(dim=0).float()
    assert torch.allclose(round_.outer.anchor, want, rtol=0, atol=2e-7)
    assert round_.facts["discarded"] == 0


def test_the_mean_of_products_is_their_mean_to_rank_r():
    anchor, rows = drawn(0), [drawn(k, scale=0.1) for k in range(1, 5)]
    round_ = Round(recipe_of(4, aggregator={"name": "mean"}), anchor)
    round_.run(rows)
    target = products(anchor)
    for row in rows:
        for name, change in moved(anchor, row).items():
            target[name] = target[name] + change / 4
    want, lost, energy = {"head": target["head"]}, 0.0, 0.0
    for name in MODULES:
        u, values, vt = torch.linalg.svd(target[name], full_matrices=False)
        want[name] = (u[:, :RANK] * values[:RANK]) @ vt[:RANK]
        lost += float(values[RANK:].square().sum())
        energy += float(values.square().sum())
    close(products(round_.outer.anchor), want)
    assert round_.facts["discarded"] == pytest.approx(lost / energy, rel=1e-6)
    assert 0 < lost / energy < 0.2


CONSTRUCTIONS = {
    "krum": {"name": "krum", "f": 2},
    "nnm + geometric_median": {"name": "geometric_median", "f": 2, "mixing": ["nnm"]},
    "centered_clipping": {"name": "centered_clipping", "f": 2},
    "nnm + trimmed_mean": {"name": "trimmed_mean", "f": 2, "mixing": ["nnm"]},
    "arc + mean on factors": {"name": "mean", "f": 2, "mixing": ["arc"], "combination": "factors"},
    "trimmed_mean on BA": {"name": "trimmed_mean", "f": 2, "combination": "dense"},
}


@pytest.mark.parametrize("aggregator", CONSTRUCTIONS.values(), ids=CONSTRUCTIONS)
@pytest.mark.parametrize("kind", ["100", "1/100", "orthogonal", "minus", "condition 30"])
def test_another_gauge_changes_nothing(aggregator, kind):
    anchor, rows = drawn(0), [drawn(k, scale=0.1) for k in range(1, 9)]
    rows[6] = -8 * rows[6]  # something to judge
    plain, other = (Round(recipe_of(8, aggregator=aggregator), anchor) for _ in range(2))
    q = torch.linalg.qr(torch.randn(RANK, RANK, generator=torch.Generator().manual_seed(1))).Q
    s = {
        "100": 100 * torch.eye(RANK),
        "1/100": torch.eye(RANK) / 100,
        "orthogonal": q,
        "minus": -torch.eye(RANK),
        "condition 30": q @ torch.diag(torch.tensor([30.0, 1.0, 4.0])),
    }[kind].double()
    a = plain.run(rows)
    b = other.run([turned(anchor, row, s) if k in (1, 4) else row for k, row in enumerate(rows)])
    assert other.refused == {}
    close(products(other.outer.anchor), products(plain.outer.anchor), 2e-4)
    assert b.distances == pytest.approx(a.distances, rel=2e-3)
    if a.weights is not None:
        assert b.weights == pytest.approx(a.weights, abs=2e-3)


def test_factors_are_wrecked_by_what_products_do_not_feel():
    # The control of the test above: the same rows, (100 B, A/100), and the plain mean of factors.
    anchor, rows = drawn(0), [drawn(k, scale=0.1) for k in range(1, 9)]
    s = 100 * torch.eye(RANK, dtype=torch.float64)
    recipe = recipe_of(8, aggregator={"name": "mean", "geometry": "factors"})
    plain, other = Round(recipe, anchor), Round(recipe, anchor)
    plain.run(rows)
    other.run([turned(anchor, rows[0], s), *rows[1:]])
    want, got = products(plain.outer.anchor), products(other.outer.anchor)
    assert max(float((got[name] - want[name]).norm() / want[name].norm()) for name in MODULES) > 3


def test_a_gauge_beyond_the_bound_is_refused_by_name():
    anchor, rows = drawn(0), [drawn(k, scale=0.1) for k in range(1, 8)]
    lopsided = torch.diag(torch.tensor([1e4, 1.0, 1.0], dtype=torch.float64))
    rows[5] = turned(anchor, rows[5], lopsided)
    round_ = Round(recipe_of(7, aggregator={"name": "krum", "f": 1}), anchor)
    combined = round_.run(rows)
    assert set(round_.refused) == {5}
    assert "no gauge near the anchor's: condition" in round_.refused[5]
    assert len(combined.norms) == 6


@pytest.mark.parametrize(
    ("aggregator", "refused"),
    [
        ({"name": "krum", "f": 1}, False),
        ({"name": "trimmed_mean", "f": 1, "combination": "dense"}, False),
        ({"name": "trimmed_mean", "f": 1, "mixing": ["nnm"]}, True),
        ({"name": "trimmed_mean", "f": 1, "mixing": ["nnm"], "max_stretch": 100.0}, False),
        ({"name": "krum", "f": 1, "max_stretch": 3.0}, True),
    ],
)
def test_who_left_the_anchors_rows_is_refused_where_factors_are_combined(aggregator, refused):
    """A move of A by six times its size is a stretch near sqrt(1 + 36) and more."""
    anchor, rows = drawn(0), [drawn(k, scale=0.1) for k in range(1, 8)]
    rows[5] = drawn(6, scale=6.0)
    round_ = Round(recipe_of(7, aggregator=aggregator), anchor)
    round_.run(rows)
    assert set(round_.refused) == ({5} if refused else set())
    assert all("stretch" in why for why in round_.refused.values())


def test_clients_of_different_ranks_are_summed_exactly():
    ranks = [3, 1, 2, 3]
    recipe = recipe_of(4, aggregator={"name": "mean"}, lora={"client_ranks": ranks})
    anchor = drawn(0)
    round_ = Round(recipe, anchor)
    layouts = [narrow(LAYOUT, rank) for rank in ranks]
    rows = [drawn(k, layout, 0.1) for k, layout in enumerate(layouts, 1)]
    round_.run(rows)
    target = products(anchor)
    for client, (row, layout) in enumerate(zip(rows, layouts, strict=True)):
        received = round_.sent.to(client).anchor
        for name, change in moved(received, row, layout).items():
            target[name] = target[name] + change / 4
    for name in MODULES:
        u, values, vt = torch.linalg.svd(target[name], full_matrices=False)
        target[name] = (u[:, :RANK] * values[:RANK]) @ vt[:RANK]
    close(products(round_.outer.anchor), target)


def test_a_client_of_a_lower_rank_receives_the_best_approximation():
    recipe = recipe_of(2, aggregator={"name": "mean"}, lora={"client_ranks": [3, 1]})
    anchor = drawn(0)
    sent = Broadcast(recipe, LAYOUT, anchor, round_=1)
    assert torch.equal(sent.to(0).anchor, anchor)
    got = products(sent.to(1).anchor, narrow(LAYOUT, 1))
    for name, whole in products(anchor).items():
        if name == "head":
            assert torch.allclose(got[name], whole)
            continue
        u, values, vt = torch.linalg.svd(whole, full_matrices=False)
        assert torch.allclose(got[name], values[0] * u[:, :1] @ vt[:1], atol=1e-5)


def test_norms_and_distances_are_those_of_dense_matrices():
    anchor, rows = drawn(0), [drawn(k, scale=0.1) for k in range(1, 6)]
    round_ = Round(recipe_of(5, aggregator={"name": "geometric_median", "f": 1}), anchor)
    combined = round_.run(rows)
    flat = np.stack(
        [torch.cat([c.flatten() for c in moved(anchor, row).values()]).numpy() for row in rows]
    )
    center = np.array(combined.weights) @ flat
    assert combined.norms == pytest.approx(np.linalg.norm(flat, axis=1), rel=1e-5)
    assert combined.distances == pytest.approx(np.linalg.norm(flat - center, axis=1), rel=1e-4)
    assert combined.norm == pytest.approx(np.linalg.norm(center), rel=1e-4)


def test_dense_takes_the_rule_to_each_entry_of_the_products():
    anchor, rows = drawn(0), [drawn(k, scale=0.1) for k in range(1, 6)]
    round_ = Round(
        recipe_of(5, aggregator={"name": "median", "f": 2, "combination": "dense"}), anchor
    )
    combined = round_.run(rows)
    changes = [moved(anchor, row) for row in rows]
    want = products(anchor)
    for name in want:
        want[name] = want[name] + torch.stack([c[name] for c in changes]).median(dim=0).values
        if name in MODULES:
            u, values, vt = torch.linalg.svd(want[name], full_matrices=False)
            want[name] = (u[:, :RANK] * values[:RANK]) @ vt[:RANK]
    close(products(round_.outer.anchor), want)
    assert combined.weights is None


@pytest.mark.parametrize("train", ["b_only", "alternate"])
def test_with_one_factor_fixed_products_are_linear_and_exact(train):
    recipe = recipe_of(5, aggregator={"name": "geometric_median", "f": 1}, lora={"train": train})
    anchor = drawn(0)
    round_ = Round(recipe, anchor)
    for t in (1, 2):
        part = Part.of_round(LAYOUT, train, t)
        before = round_.outer.anchor
        rows = [drawn(10 * t + k, part.layout, 0.1) for k in range(5)]
        combined = round_.run(rows, t)
        want = products(before)
        for weight, row in zip(combined.weights, rows, strict=True):
            change = moved(before, part.put(part.take(before) + row, before) - before)
            want = {name: want[name] + weight * change[name] for name in want}
        close(products(round_.outer.anchor), want)


@pytest.mark.parametrize(
    "aggregator",
    [
        {"name": "trimmed_mean", "f": 1, "mixing": ["nnm"]},
        {"name": "trimmed_mean", "f": 1, "combination": "dense"},
        {"name": "geometric_median", "f": 1, "combination": "factors"},
        {"name": "krum", "f": 1},
    ],
    ids=["columns", "dense", "factors", "exact"],
)
def test_the_report_is_in_products_whatever_the_combination(aggregator):
    anchor, rows = drawn(0), [drawn(k, scale=0.1) for k in range(1, 7)]
    round_ = Round(recipe_of(6, aggregator=aggregator), anchor)
    combined = round_.run(rows)
    flat = [torch.cat([c.flatten() for c in moved(anchor, row).values()]) for row in rows]
    assert combined.norms == pytest.approx([float(row.norm()) for row in flat], rel=1e-4)
    if aggregator["name"] == "krum":  # the aggregate is a client: at 0 from itself
        center = flat[combined.weights.index(1.0)]
    else:
        center = torch.cat(
            [c.flatten() for c in moved(anchor, round_.outer.anchor - anchor).values()]
        )
    assert combined.norm == pytest.approx(float(center.norm()), rel=1e-3)
    want = [float((row - center).norm()) for row in flat]
    assert combined.distances == pytest.approx(want, rel=1e-3, abs=1e-5)


def test_the_sum_of_all_clients_is_made_one_module_at_a_time():
    anchor, rows = drawn(0), [drawn(k, scale=0.1) for k in range(1, 7)]
    outer = {"name": "nesterov", "momentum": 0.5}
    round_ = Round(recipe_of(6, aggregator={"name": "mean"}, outer=outer), anchor)
    made = []
    real = Change.pair

    def counted(self, k):
        made.append(k)
        return real(self, k)

    Change.pair = counted
    try:
        combined = round_.run(rows)
    finally:
        Change.pair = real
    assert made == [0, 1]
    assert not hasattr(combined.change, "pairs")
