"""Rounds that train one factor: what moves, what is sent, what is refused, what is remembered.

The equality of such a round with a plain TRL run is in tests/fedtune/training.

Not proven here: that one factor, or one after the other, trains as well as both.
"""

import shutil
from itertools import pairwise

import pytest
import torch
from left_by_a_run import adapter_bytes, eval_records
from safetensors.torch import load_file
from toy_federation import toy_app, toy_content, toy_recipe, toy_server

import aggregators
from fedtune.adapters.layout import Layout
from fedtune.adapters.part import Part
from fedtune.messages import wire
from fedtune.records.folder import RunFolder
from fedtune.simulation.adversary import byzantine_clients
from fedtune.training.process import get_worker
from fedtune.transport.local import LocalTransport

A, B, HEAD = "q.lora_A.weight", "q.lora_B.weight", "head.weight"
LAYOUT = Layout(((HEAD, (2,)), (A, (2, 3)), (B, (4, 2))))
ANCHOR = torch.arange(16, dtype=torch.float32) / 8
MOMENTUM = {"name": "nesterov", "lr": 0.7, "momentum": 0.9}
ADAM = {"name": "adam", "lr": 0.1}


def part_of(round_, train="alternate"):
    return Part.of_round(LAYOUT, train, round_)


def delta_of(client, round_):
    draw = torch.Generator().manual_seed(1000 * round_ + client)
    return torch.randn(part_of(round_).layout.size, generator=draw)


def honest(message, client):
    round_ = message.content.config_records[wire.ORDER]["round"]
    return toy_content(message, delta_of(client, round_), layout=part_of(round_).layout)


def alternating(rounds, *, num_clients=3, content_of=honest, **sections):
    """The server after some rounds, and the anchor as tensors before and after each."""
    recipe = toy_recipe(num_clients, lora={"train": "alternate"}, **sections)
    transport = LocalTransport(toy_app(content_of), num_clients)
    server = toy_server(recipe, transport, layout=LAYOUT, anchor=ANCHOR)
    anchors = [LAYOUT.unflatten(ANCHOR)]
    for round_ in range(1, rounds + 1):
        assert server.run_round(transport, round_), server.record.refused
        anchors.append(LAYOUT.unflatten(server.outer.anchor))
    return server, anchors


@pytest.mark.parametrize("outer", [{"name": "fedavg"}, MOMENTUM, ADAM], ids=lambda o: o["name"])
def test_what_a_round_does_not_train_does_not_move(outer):
    # One optimizer for both would move A in round 3 by the momentum that round 2 has left.
    server, anchors = alternating(6, outer=outer)
    moved = [
        {name for name in before if not torch.equal(before[name], after[name])}
        for before, after in pairwise(anchors)
    ]
    assert moved == [{B, HEAD}, {A, HEAD}] * 3
    assert server.record.trained == "a"


def test_a_retried_round_trains_the_same_part():
    failures = [0, 1, 2]

    def fails_once(message, client):
        if message.content.config_records[wire.ORDER]["round"] == 2 and client in failures:
            failures.remove(client)
            raise ConnectionError("gone")
        return honest(message, client)

    disturbed, _ = alternating(3, content_of=fails_once, outer=MOMENTUM)
    undisturbed, _ = alternating(3, outer=MOMENTUM)
    assert failures == []
    assert torch.equal(disturbed.outer.anchor, undisturbed.outer.anchor)


def both_factors(message, client):
    return toy_content(message, torch.ones(16), layout=LAYOUT)


def the_other_factor(message, client):
    layout = part_of(message.content.config_records[wire.ORDER]["round"] + 1).layout
    return toy_content(message, torch.ones(layout.size), layout=layout)


@pytest.mark.parametrize(
    ("lie", "reasons"),
    [
        (both_factors, [f"got 3, brings '{A}'", f"got 3, brings '{B}'"]),
        (
            the_other_factor,
            [f"lacks '{B}' and brings '{A}'", f"lacks '{A}' and brings '{B}'"],
        ),
    ],
    ids=["both", "the other"],
)
def test_who_sends_the_fixed_factor_is_refused_by_its_name(lie, reasons):
    def one_lies(message, client):
        return (lie if client == 1 else honest)(message, client)

    for rounds, reason in enumerate(reasons, start=1):
        server, _ = alternating(rounds, content_of=one_lies)
        assert set(server.record.refused) == {1}
        assert server.record.refused[1].startswith("needs exactly the 2 tensors asked for")
        assert reason in server.record.refused[1]
        assert set(server.record.clients) == {0, 2}


def test_a_reply_is_bounded_by_what_the_round_sends():
    # A has 100,000 numbers, 400 kB: more than the 256 kB that a reply may spend on words.
    layout = Layout(((A, (100_000,)), (B, (10,))))

    def one_brings_a(message, client):
        sent = layout if client == 0 else Part("b", layout).layout
        return toy_content(message, torch.zeros(sent.size), layout=sent)

    recipe = toy_recipe(2, lora={"train": "b_only"})
    transport = LocalTransport(toy_app(one_brings_a), 2)
    server = toy_server(recipe, transport, layout=layout, anchor=torch.zeros(100_010))
    assert server.run_round(transport, 1)
    assert server.record.refused[0].endswith("bytes is more than any good one")


def test_a_rule_remembers_each_part_apart():
    # Centered clipping with a short radius stays near its centre, the part's last aggregate.
    rule = {"name": "centered_clipping", "f": 1, "radius": 0.1, "geometry": "factors"}
    server, _ = alternating(5, aggregator=rule)
    states, anchor = {"a": {}, "b": {}}, ANCHOR
    for round_ in range(1, 6):
        part = part_of(round_)
        rows = torch.stack([delta_of(client, round_) for client in range(3)])
        result = aggregators.aggregate_with_report(
            rows, "centered_clipping", f=1, state=states[part.name], radius=0.1
        )
        states[part.name] = result.state
        anchor = part.put(part.take(anchor) + result.aggregate, anchor)
    assert torch.equal(server.outer.anchor, anchor)
    kept = {f"{name}/center": state["center"] for name, state in states.items()}
    assert server.geometry.rule.state.keys() == kept.keys()
    assert all(
        torch.equal(server.geometry.rule.state[name], center) for name, center in kept.items()
    )


def test_the_simulated_liars_lie_about_the_part():
    attack = {"name": "sign_flip", "num_attackers": 1, "scale": 4.0}
    server, _ = alternating(2, attack=attack)
    [liar] = byzantine_clients(server.recipe)
    anchor = ANCHOR
    for round_ in (1, 2):
        part = part_of(round_)
        sent = [delta_of(k, round_) * (-4 if k == liar else 1) for k in range(3)]
        anchor = part.put(part.take(anchor) + torch.stack(sent).mean(0), anchor)
    torch.testing.assert_close(server.outer.anchor, anchor)
    assert server.record.refused == {}


def saved(folder):
    return load_file(folder.adapter / "adapter_model.safetensors")


def initial(recipe):
    worker = get_worker(recipe.model_dump_json())
    return worker.layout.unflatten(worker.initial)


@pytest.mark.parametrize("outer", [MOMENTUM, ADAM], ids=lambda outer: outer["name"])
def test_b_only_leaves_a_as_it_was_drawn_and_sends_about_half(tiny_recipe, run, outer):
    both = run(tiny_recipe(outer=outer, federation={"num_rounds": 1}))
    folder = run(tiny_recipe(outer=outer, lora={"train": "b_only"}))
    _, recipe = RunFolder.open(folder.path)
    drawn, adapter = initial(recipe), saved(folder)
    assert adapter.keys() == drawn.keys() == saved(both).keys()
    for name, tensor in adapter.items():
        assert torch.equal(tensor, drawn[name]) == ("lora_A" in name), name
    records = folder.read_metrics()
    assert [record.get("trained") for record in records] == [None, "b", "b", "b"]
    assert records[3]["eval"]["loss"] < records[0]["eval"]["loss"]
    share = records[1]["upload_bytes"] / both.read_metrics()[1]["upload_bytes"]
    assert 0.4 < share < 0.6


def stop_after(folder, round_):
    """Leave a run's folder as a kill right after a round would have."""
    for later in folder.checkpoints.iterdir():
        if int(later.name.removeprefix("round-")) > round_:
            shutil.rmtree(later)
    shutil.rmtree(folder.adapter)


def test_an_alternating_run_that_is_resumed_at_any_round_ends_in_the_same_bits(tiny_recipe, run):
    # Every kind of state: inner optimizers, momentum, the rule's centre, each for A and for B.
    recipe = tiny_recipe(
        lora={"train": "alternate", "lora_dropout": 0.1},
        federation={"num_clients": 3, "num_rounds": 5, "inner_optimizer": "keep"},
        aggregator={"name": "centered_clipping", "geometry": "factors"},
        outer=MOMENTUM,
        attack={"name": "gaussian", "num_attackers": 1, "std": 0.5},
        checkpoint={"keep": 5},
    )
    folder = run(recipe)
    whole = adapter_bytes(folder), eval_records(folder)
    trained = [record.get("trained") for record in folder.read_metrics()]
    assert trained == [None, "b", "a", "b", "a", "b"]
    kept = sorted(folder.path.glob("clients/0001/*/*"))
    assert [f"{path.parent.name}{path.stem[-1]}" for path in kept] == ["a2", "a4", "b1", "b3", "b5"]
    for round_ in (3, 2, 1):
        stop_after(folder, round_)
        folder, recipe = RunFolder.open(folder.path)
        run.resume(recipe, folder)
        assert (adapter_bytes(folder), eval_records(folder)) == whole, round_
