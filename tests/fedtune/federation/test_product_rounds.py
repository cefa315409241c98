"""Rounds in product space: equalities with factors, other gauges, other ranks, momentum, memory.

Rows are of two made-up modules of different shapes and a head; what a change means is checked on
dense float64 matrices. Not proven here: training itself, see test_gauge_in_a_run.py.
"""

import numpy as np
import pytest
import torch

from fedtune.adapters.layout import Layout
from fedtune.adapters.part import Part
from fedtune.adapters.ranks import narrow
from fedtune.federation.broadcast import Broadcast
from fedtune.federation.combining import Combiner
from fedtune.federation.geometry import describe
from fedtune.federation.intake import Intake
from fedtune.federation.outer import OuterOptimizer
from fedtune.federation.product_outer import ProductOuter
from fedtune.federation.spool import Spool
from fedtune.recipe import parse_recipe

RANK = 3
MODULES = {"base_model.model.x": (7, 5), "base_model.model.y": (4, 9)}  # d_out, d_in
NAMED = [
    (f"{name}.lora_{side}.weight", (RANK, d_in) if side == "A" else (d_out, RANK))
    for name, (d_out, d_in) in MODULES.items()
    for side in "AB"
]
LAYOUT = Layout(tuple(sorted([*NAMED, ("base_model.model.head.weight", (2, 3))])))


def recipe_of(n, *, aggregator, outer=None, lora=None):
    return parse_recipe(
        {
            "lora": {"r": RANK, "lora_alpha": 6, **(lora or {})},
            "federation": {"num_clients": n},
            "aggregator": {"geometry": "product", **aggregator},
            "outer": outer or {"name": "fedavg"},
        }
    )


def drawn(seed, layout=LAYOUT, scale=1.0):
    return scale * torch.randn(layout.size, generator=torch.Generator().manual_seed(seed))


def products(row, layout=LAYOUT, scale=2.0):
    """s BA of each module, dense, and the head; float64."""
    tensors = layout.unflatten(row.double())
    found = {
        name: scale * tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]
        for name in MODULES
    }
    return found | {"head": tensors["base_model.model.head.weight"]}


def moved(anchor, delta, layout=LAYOUT):
    """s (B_i A_i - B A) of each module."""
    after, before = products(anchor + delta, layout), products(anchor, layout)
    return {name: after[name] - before[name] for name in after}


def turned(anchor, delta, s, layout=LAYOUT):
    """The same model in the gauge (B S, S^-1 A), as a delta."""
    local = layout.unflatten((anchor + delta).double())
    for name in MODULES:
        local[f"{name}.lora_B.weight"] = local[f"{name}.lora_B.weight"] @ s
        local[f"{name}.lora_A.weight"] = torch.linalg.solve(s, local[f"{name}.lora_A.weight"])
    return (layout.flatten({k: v.float() for k, v in local.items()}).double() - anchor).float()


class Round:
    """A server's part of one round and the next ones, on rows made by hand."""

    def __init__(self, recipe, anchor, layout=LAYOUT):
        self.recipe, self.layout = recipe, layout
        factors = describe(Part("both", layout), anchor, recipe.lora)
        self.outer = (
            ProductOuter(recipe, anchor, factors)
            if recipe.steps_products
            else OuterOptimizer(recipe.outer, anchor)
        )
        self.combiner = Combiner(recipe)
        self.refused = {}

    def run(self, rows, round_=1):
        self.sent = Broadcast(self.recipe, self.layout, self.outer.anchor, round_=round_)
        intake = Intake(self.recipe, Spool(), ("", ""))
        for client, row in enumerate(rows):
            intake.spool.put(client, row)
        self.refused = intake.settle(range(len(rows)), self.sent, round_=round_)
        part = Part.of_round(self.layout, self.recipe.lora.train, round_)
        combined = self.combiner.combine(
            intake.spool, self.sent, part, round_=round_, outer=self.outer
        )
        self.facts = self.outer.step(combined.change, part)
        return combined


def close(got, want, tolerance=1e-5):
    scale = max(float(value.abs().max()) for value in want.values())
    for name in want:
        assert (got[name] - want[name]).abs().max() <= tolerance * scale, name


def b_only(rows):
    """The same deltas with A unmoved."""
    kept = []
    for row in rows:
        tensors = LAYOUT.unflatten(row.clone())
        for name in MODULES:
            tensors[f"{name}.lora_A.weight"].zero_()
        kept.append(LAYOUT.flatten(tensors))
    return kept


def test_fedavg_with_nobody_moving_a_is_fedavg_on_factors():
    anchor, rows = drawn(0), b_only([drawn(k, scale=0.1) for k in range(1, 6)])
    round_ = Round(recipe_of(5, aggregator={"name": "mean"}), anchor)
    round_.run(rows)
    want = anchor + torch.stack(rows).double().mean(dim=0).float()
    assert torch.allclose(round_.outer.anchor, want, rtol=0, atol=2e-7)
    assert round_.facts["discarded"] == 0


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_diloco_with_nobody_moving_a_is_torchs_sgd_on_b(momentum):
    outer = {"name": "nesterov", "lr": 0.7, "momentum": momentum}
    anchor = drawn(0)
    round_ = Round(recipe_of(5, aggregator={"name": "mean"}, outer=outer), anchor)
    factors = OuterOptimizer(round_.recipe.outer, anchor)
    for t in range(1, 6):
        rows = b_only([drawn(10 * t + k, scale=0.1) for k in range(5)])
        round_.run(rows, t)
        factors.step(torch.stack(rows).double().mean(dim=0).float())
        close(products(round_.outer.anchor), products(factors.anchor))
        assert round_.facts["discarded"] < 1e-12


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


def test_momentum_in_low_rank_is_momentum():
    # Rank 3 of 3 clients who share A's row space in pairs: M has rank at most 2r, nothing is cut
    # from it, so that M and its step follow torch's recursion on dense matrices.
    outer = {"name": "nesterov", "lr": 0.7, "momentum": 0.5}
    anchor = drawn(0)
    round_ = Round(recipe_of(1, aggregator={"name": "mean"}, outer=outer), anchor)
    dense = {name: torch.zeros_like(value) for name, value in products(anchor).items()}
    for t in range(1, 3):
        before, row = round_.outer.anchor, drawn(t, scale=0.1)
        round_.run([row], t)
        want = products(before)
        for name, change in moved(before, row).items():
            dense[name] = 0.5 * dense[name] + change
            if name in MODULES:  # what rank 2r holds of it
                u, values, vt = torch.linalg.svd(dense[name], full_matrices=False)
                dense[name] = (u[:, : 2 * RANK] * values[: 2 * RANK]) @ vt[: 2 * RANK]
            want[name] = want[name] + 0.7 * (change + 0.5 * dense[name])
            if name in MODULES:
                u, values, vt = torch.linalg.svd(want[name], full_matrices=False)
                want[name] = (u[:, :RANK] * values[:RANK]) @ vt[:RANK]
        close(products(round_.outer.anchor), want)


def test_what_is_carried_comes_back_in_the_next_round():
    # A round that changes nothing: the dropped tail stays lost, the carried one is added again.
    anchor, rows = drawn(0), [drawn(k, scale=0.5) for k in range(1, 4)]
    still = [torch.zeros(LAYOUT.size)] * 3
    runs = {}
    for residual in ("drop", "carry"):
        recipe = recipe_of(3, aggregator={"name": "mean", "residual": residual})
        round_ = Round(recipe, anchor)
        round_.run(rows)
        first, first_facts = round_.outer.anchor, round_.facts
        round_.run(still, 2)
        runs[residual] = (first, round_.outer.anchor, first_facts, round_.facts)
    assert torch.equal(runs["drop"][0], runs["drop"][1])
    assert runs["carry"][2]["discarded"] == runs["drop"][2]["discarded"] > 0.001
    # With the tail the target is a little longer than what rank r holds: the same best rank-r
    # part, and the same tail, are found again.
    assert runs["carry"][3]["discarded"] == pytest.approx(runs["carry"][2]["discarded"], rel=0.05)


def test_state_goes_through_a_checkpoint():
    outer = {"name": "nesterov", "momentum": 0.5}
    aggregator = {"name": "centered_clipping", "f": 1, "residual": "carry"}
    anchor = drawn(0)
    whole, first = (Round(recipe_of(4, aggregator=aggregator, outer=outer), anchor) for _ in "ab")
    rounds = [[drawn(10 * t + k, scale=0.1) for k in range(4)] for t in range(3)]
    for t, rows in enumerate(rounds, 1):
        whole.run(rows, t)
    first.run(rounds[0], 1)
    second = Round(first.recipe, first.outer.anchor)
    assert all(isinstance(value, torch.Tensor) for value in first.outer.state().values())
    second.outer.load_state({k: v.clone() for k, v in first.outer.state().items()})
    second.combiner.state = {k: v.clone() for k, v in first.combiner.state.items()}
    assert second.combiner.state
    for t, rows in enumerate(rounds[1:], 2):
        second.run(rows, t)
    assert torch.equal(second.outer.anchor, whole.outer.anchor)


def test_centered_clipping_carries_its_centre_in_products():
    # With a radius far beyond everything one step is the mean, wherever the centre was; with a tiny
    # one the aggregate stays where the centre was: the last aggregate.
    anchor, rows = drawn(0), [drawn(k, scale=0.1) for k in range(1, 4)]
    short = {"name": "centered_clipping", "f": 1, "steps": 1, "radius": 1e-6}
    round_ = Round(recipe_of(3, aggregator=short), anchor)
    round_.run(rows)
    state = dict(round_.combiner.state)
    assert {name.split("/")[1] for name in state} == {"center"}
    again = round_.run([drawn(k, scale=0.1) for k in range(5, 8)], 2)
    assert again.norm < 1e-5


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
