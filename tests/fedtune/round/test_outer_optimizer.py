"""The outer optimizer is torch.optim on the anchor, to the bit.

Not proven here: that any of them trains well; see the docs on lr / (1 - momentum).
"""

import pytest
import torch

from fedtune.adapters.layout import Layout
from fedtune.adapters.part import Part
from fedtune.recipe import Outer
from fedtune.records.checkpoint import Checkpoint, load_latest
from fedtune.round.aggregation.outer import OuterOptimizer

EACH = [
    {"name": "fedavg"},
    {"name": "nesterov", "lr": 0.7, "momentum": 0.9},
    {"name": "adam", "lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6},
]


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def walk(outer, aggregates, anchor):
    optimizer = OuterOptimizer(Outer(**outer), anchor)
    for aggregate in aggregates:
        optimizer.step(aggregate)
    return optimizer.anchor


def torch_walk(optimizer_of, aggregates, anchor):
    parameter = torch.nn.Parameter(anchor.clone())
    optimizer = optimizer_of([parameter])
    for aggregate in aggregates:
        parameter.grad = -aggregate
        optimizer.step()
    return parameter.detach()


def test_fedavg_moves_the_anchor_by_the_aggregate_to_the_bit():
    anchor, aggregate = draw(1000, seed=1), draw(1000, seed=2) * 1e-3
    assert torch.equal(walk({"name": "fedavg"}, [aggregate], anchor), anchor + aggregate)


def test_each_outer_optimizer_is_torchs_to_the_bit_over_20_rounds():
    anchor, aggregates = draw(1000, seed=1), draw(20, 1000, seed=2)
    torchs = [
        lambda p: torch.optim.SGD(p, lr=1.0),
        lambda p: torch.optim.SGD(p, lr=0.7, momentum=0.9, nesterov=True),
        lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.95), eps=1e-6),
    ]
    for ours, theirs in zip(EACH, torchs, strict=True):
        moved = walk(ours, aggregates, anchor)
        assert torch.equal(moved, torch_walk(theirs, aggregates, anchor)), ours
        assert not torch.equal(moved, anchor)


def test_nesterov_without_momentum_at_lr_1_is_fedavg_to_the_bit():
    anchor, aggregates = draw(1000, seed=1), draw(20, 1000, seed=2)
    plain = walk({"name": "nesterov", "lr": 1.0, "momentum": 0.0}, aggregates, anchor)
    assert torch.equal(plain, walk({"name": "fedavg"}, aggregates, anchor))


def test_what_is_not_said_is_what_the_recipe_documents():
    anchor, aggregates = draw(50, seed=1), draw(5, 50, seed=2)
    said = {"name": "nesterov", "lr": 0.7, "momentum": 0.5}
    assert torch.equal(
        walk({"name": "nesterov"}, aggregates, anchor), walk(said, aggregates, anchor)
    )
    said = {"name": "adam", "lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8}
    assert torch.equal(walk({"name": "adam"}, aggregates, anchor), walk(said, aggregates, anchor))


def test_the_steady_gain_of_nesterov_is_lr_over_1_minus_momentum():
    # lr 0.5, momentum 0.5, aggregate 1 in every round. buffer = 0.5 buffer + 1: 1, 1.5, 1.75, ...
    # step = 0.5 (1 + 0.5 buffer): 0.75, 0.875, 0.9375, ... -> 0.5 / (1 - 0.5) = 1. All exact.
    optimizer = OuterOptimizer(Outer(name="nesterov", lr=0.5, momentum=0.5), torch.zeros(1))
    steps, before = [], 0.0
    for _ in range(30):
        optimizer.step(torch.ones(1))
        steps.append(optimizer.anchor.item() - before)
        before = optimizer.anchor.item()
    assert steps[:3] == [0.75, 0.875, 0.9375]
    assert steps[-1] == pytest.approx(1.0, abs=1e-6)


def test_adams_first_step_is_the_learning_rate_in_the_aggregates_direction():
    # m / (1 - b1) = g, sqrt(v / (1 - b2)) = |g|: the step is lr g / (|g| + eps), whatever |g|.
    moved = walk(
        {"name": "adam", "lr": 0.25, "eps": 1e-12}, [torch.tensor([8.0, -0.5])], torch.zeros(2)
    )
    assert moved.tolist() == pytest.approx([0.25, -0.25], rel=1e-6)


@pytest.mark.parametrize("outer", EACH, ids=lambda outer: outer["name"])
def test_a_checkpoint_in_the_middle_changes_no_bit(outer, tmp_path):
    anchor, aggregates = draw(100, seed=1), draw(20, 100, seed=2)
    optimizer = OuterOptimizer(Outer(**outer), anchor)
    for aggregate in aggregates[:10]:
        optimizer.step(aggregate)
    saved = Checkpoint(10, optimizer.state_dict(), 0, "layout")
    saved.save(tmp_path, keep=1)

    loaded = load_latest(tmp_path)
    again = OuterOptimizer(Outer(**outer), torch.zeros_like(loaded.anchor))
    again.load_state_dict(loaded.state)
    for aggregate in aggregates[10:]:
        again.step(aggregate)
    assert torch.equal(again.anchor, walk(outer, aggregates, anchor))


@pytest.mark.parametrize("outer", EACH, ids=lambda outer: outer["name"])
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (torch.tensor([0.0, float("nan"), 0.0]), "not finite"),
        (torch.tensor([0.0, float("inf"), 0.0]), "not finite"),
        (torch.zeros(1), "needs"),  # would broadcast
        (torch.zeros(3, 1), "needs"),
    ],
    ids=["nan", "inf", "one number", "a column"],
)
def test_a_bad_aggregate_is_refused_and_nothing_moves(outer, bad, reason):
    good = draw(4, 3, seed=2)
    optimizer = OuterOptimizer(Outer(**outer), torch.zeros(3))
    for i, aggregate in enumerate(good):
        optimizer.step(aggregate)
        if i == 1:
            with pytest.raises(ValueError, match=reason):
                optimizer.step(bad)
    assert torch.equal(optimizer.anchor, walk(outer, good, torch.zeros(3)))


def test_the_anchor_that_is_handed_out_is_a_copy():
    optimizer = OuterOptimizer(Outer(name="nesterov"), torch.zeros(3))
    optimizer.step(torch.ones(3))
    optimizer.anchor.fill_(7.0)
    optimizer.state_dict()["both/momentum_buffer"].fill_(7.0)
    assert optimizer.anchor.max() < 2
    assert optimizer.state_dict()["both/momentum_buffer"].max() < 2


def test_a_step_out_of_range_moves_nothing():
    # 3e38 + 3e38 is beyond float32's 3.4e38: the second step must leave anchor and momentum.
    for outer in ({"name": "fedavg"}, {"name": "nesterov", "lr": 1.0, "momentum": 0.5}):
        optimizer = OuterOptimizer(Outer.model_validate(outer), torch.zeros(2))
        optimizer.step(torch.tensor([1e38, 1.0]))
        anchor, state = optimizer.anchor, optimizer.state_dict()
        with pytest.raises(ValueError, match="the anchor stays"):
            optimizer.step(torch.tensor([3e38, 1.0]))
        assert torch.equal(optimizer.anchor, anchor)
        assert all(
            torch.equal(optimizer.state_dict()[name], value) for name, value in state.items()
        )
        optimizer.step(torch.tensor([1.0, 1.0]))
        assert torch.isfinite(optimizer.anchor).all()


HALVES = Layout((("q.lora_A.weight", (30,)), ("q.lora_B.weight", (20,))))


@pytest.mark.parametrize("outer", EACH, ids=lambda outer: outer["name"])
def test_two_parts_are_two_optimizers_and_neither_moves_the_other(outer):
    # The reference is two torch optimizers, each of which sees the rounds of its own part alone.
    anchor = draw(50, seed=1)
    parts = [Part.of_round(HALVES, "alternate", round_) for round_ in range(1, 21)]
    aggregates = [draw(part.layout.size, seed=seed) for seed, part in enumerate(parts)]
    optimizer = OuterOptimizer(Outer(**outer), anchor)
    for part, aggregate in zip(parts, aggregates, strict=True):
        before = optimizer.anchor
        optimizer.step(aggregate, part)
        moved = optimizer.anchor != before
        assert moved[:30].any() == (part.name == "a")
        assert moved[30:].any() == (part.name == "b")
    a = walk(outer, aggregates[1::2], anchor[:30])
    b = walk(outer, aggregates[0::2], anchor[30:])
    assert torch.equal(optimizer.anchor, torch.cat([a, b]))


@pytest.mark.parametrize("outer", EACH, ids=lambda outer: outer["name"])
@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_checkpoint_between_two_parts_changes_no_bit(outer, done, tmp_path):
    parts = [Part.of_round(HALVES, "alternate", round_) for round_ in range(1, 7)]
    steps = [(draw(part.layout.size, seed=seed), part) for seed, part in enumerate(parts)]
    whole = OuterOptimizer(Outer(**outer), draw(50, seed=1))
    for aggregate, part in steps:
        whole.step(aggregate, part)

    first = OuterOptimizer(Outer(**outer), draw(50, seed=1))
    for aggregate, part in steps[:done]:
        first.step(aggregate, part)
    Checkpoint(done, first.state_dict(), 0, "layout").save(tmp_path, keep=1)
    loaded = load_latest(tmp_path)
    again = OuterOptimizer(Outer(**outer), torch.zeros_like(loaded.anchor))
    again.load_state_dict(loaded.state)
    for aggregate, part in steps[done:]:
        again.step(aggregate, part)
    assert torch.equal(again.anchor, whole.anchor)
    assert again.state_dict().keys() == whole.state_dict().keys()
    assert all(
        torch.equal(again.state_dict()[name], kept) for name, kept in whole.state_dict().items()
    )


def test_an_aggregate_of_another_part_is_refused_and_nothing_moves():
    optimizer = OuterOptimizer(Outer(name="nesterov"), torch.zeros(50))
    with pytest.raises(ValueError, match=r"needs \(20,\); got \(30,\)"):
        optimizer.step(torch.ones(30), Part("b", HALVES))
    assert not optimizer.anchor.any()
    assert optimizer.state_dict().keys() == {"anchor"}
