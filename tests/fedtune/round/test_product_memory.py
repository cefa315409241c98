"""What product rounds carry: momentum, residual, the rule's centre; and a checkpoint of it.

Not proven here: that momentum on truncated products learns better than none.
"""

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
)

from fedtune.adapters.layout import Layout
from fedtune.round.aggregation.outer import OuterOptimizer


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
    second = Round(first.recipe, anchor)
    state = {name: tensor.clone() for name, tensor in first.geometry.state_dict().items()}
    assert {name.split("/")[0] for name in state} == {"anchor", "outer", "rule"}
    second.geometry.load_state_dict(state)
    assert second.geometry.state_dict().keys() == state.keys()
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
    state = dict(round_.geometry.rule.state)
    assert {name.split("/")[1] for name in state} == {"center"}
    again = round_.run([drawn(k, scale=0.1) for k in range(5, 8)], 2)
    assert again.norm < 1e-5


@pytest.mark.parametrize("outer", [{"name": "fedavg"}, {"name": "nesterov", "momentum": 0.5}])
def test_clients_who_move_a_far_are_not_refused_in_later_rounds(outer):
    # AdamW moves A by a fixed length a round, here half of |A|. Were the mean of aligned A left as
    # short as it comes, all would stand beyond the stretch bound after a few rounds.
    wide = Layout((("m.lora_A.weight", (RANK, 60)), ("m.lora_B.weight", (20, RANK))))
    aggregator = {"name": "trimmed_mean", "f": 1, "mixing": ["nnm"]}
    anchor = drawn(0, wide)
    length = float(wide.unflatten(anchor)["m.lora_A.weight"].norm())
    round_ = Round(recipe_of(7, aggregator=aggregator, outer=outer), anchor, wide)
    for t in range(1, 11):
        rows = []
        for k in range(7):
            tensors = wide.unflatten(drawn(10 * t + k, wide, 0.05))
            move = tensors["m.lora_A.weight"]
            move.mul_(0.5 * length / move.norm())
            rows.append(wide.flatten(tensors))
        round_.run(rows, t)
        assert round_.refused == {}
    now = float(wide.unflatten(round_.outer.anchor)["m.lora_A.weight"].norm())
    assert now == pytest.approx(length, rel=1e-4)
