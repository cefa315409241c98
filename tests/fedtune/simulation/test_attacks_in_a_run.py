"""Every attack on updates through the real round: it runs, and goes on from a checkpoint.

Not proven here: what it harms; tests/attacks and docs/results say that.
"""

import pytest
import torch
from product_server import LAYOUT, RANK, drawn
from toy_federation import toy_app, toy_content, toy_server

import attacks
from fedtune.adapters.part import Part
from fedtune.messages import wire
from fedtune.recipe import parse_recipe
from fedtune.records.checkpoint import Checkpoint, load_latest
from fedtune.round.state import State
from fedtune.simulation.adversary import byzantine_clients, trains_for_nothing
from fedtune.simulation.training_ahead import Tools
from fedtune.training.process import read_recipe
from fedtune.transport.local import LocalTransport

ON_UPDATES = [name for name, attack in attacks.ATTACKS.items() if attack.level == "update"]
OPTIONS = {"alie": {"z": 1.0}, "alie_product": {"z": 1.0}, "on_off": {"honest_rounds": 1},
           "searched": {"search": {"evaluations": 50}}, "stretch": {"budget": 100.0}}  # fmt: skip
ANCHOR = drawn(0)
# A model for those who try their lies out: it likes anchors near the one where all began.
TOOLS = Tools(lambda *_: ANCHOR, lambda _, row: float((row - ANCHOR).norm()))


def learnt(message, client):
    """A common step, the client's own lean, and noise."""
    round_ = message.content.config_records[wire.ORDER]["round"]
    row = 0.02 * drawn(7) + 0.01 * drawn(100 + client) + 0.01 * drawn(1000 * round_ + client)
    recipe = read_recipe(message.content.config_records[wire.ORDER]["recipe"])
    part = Part.of_round(LAYOUT, recipe.lora.train, round_)
    return toy_content(message, part.take(row), layout=part.layout)


def recipe_of(name, *, geometry="factors", train="both", knowledge=None):
    return parse_recipe(
        {
            "lora": {"r": RANK, "lora_alpha": 6, "train": train},
            "federation": {"num_clients": 10},
            "aggregator": {"name": "caf", "f": 3, "mixing": ["agreement"], "geometry": geometry},
            "attack": {"name": name, "num_attackers": 3, "knowledge": knowledge,
                       **OPTIONS.get(name, {})},
        }
    )  # fmt: skip


def rounds(recipe, count, *, start=1, checkpoint=None):
    transport = LocalTransport(toy_app(learnt), 10)
    server = toy_server(recipe, transport, layout=LAYOUT, anchor=ANCHOR, tools=TOOLS)
    if checkpoint is not None:
        State(checkpoint.state, server.counts).put_back(server)
    return go_on(server, count, start=start)


def go_on(server, count, *, start):
    transport = LocalTransport(toy_app(learnt), 10)
    for round_ in range(start, start + count):
        assert server.run_round(transport, round_), server.record.refused
    return server


def saved(server, folder):
    Checkpoint(2, State.of(server).tensors, 0, LAYOUT.hash).save(folder, keep=1)
    return load_latest(folder)


@pytest.mark.parametrize(
    ("name", "geometry"),
    [
        pytest.param(name, geometry, marks=pytest.mark.slow if (k + i) % 2 else ())
        for k, name in enumerate(ON_UPDATES)
        for i, geometry in enumerate(["factors", "product"])
    ],
)
def test_a_resumed_attack_goes_on_where_it_was(name, geometry, tmp_path):
    recipe = recipe_of(name, geometry=geometry)
    whole = rounds(recipe, 2)
    checkpoint = saved(whole, tmp_path)
    go_on(whole, 2, start=3)
    resumed = rounds(recipe, 2, start=3, checkpoint=checkpoint)
    assert torch.equal(resumed.outer.anchor, whole.outer.anchor)
    assert resumed.record.clients == whole.record.clients
    assert torch.isfinite(whole.outer.anchor).all()


@pytest.mark.parametrize("name", ["stale", "replay", "slow_drift", "neurotoxin", "free_rider"])
def test_what_is_remembered_of_one_factor_is_not_taken_for_the_other(name):
    whole = rounds(recipe_of(name, train="alternate"), 4)
    parts = {key.split("/")[0] for key in whole.hooks.state_dict() if "/" in key}
    assert parts <= {"a", "b"}
    assert torch.isfinite(whole.outer.anchor).all()


def test_liars_know_the_last_step_and_no_other_server_s_state():
    server = rounds(recipe_of("neurotoxin"), 1)
    step = server.outer.anchor - ANCHOR
    assert torch.equal(server.hooks.state_dict()["last"], step)
    assert rounds(recipe_of("ipm"), 1).hooks.state_dict() == {}


def test_who_trains_for_nothing():
    recipe = recipe_of("alie")
    liars = byzantine_clients(recipe)
    assert {k for k in range(10) if trains_for_nothing(recipe, k)} == liars
    # Liars whose own updates someone looks at do train.
    for name, knowledge in (("alie", "fellows"), ("sign_flip", None), ("trigger", None)):
        recipe = recipe_of(name, knowledge=knowledge)
        assert not any(trains_for_nothing(recipe, k) for k in range(10))


def test_a_searched_lie_harms_more_than_a_fixed_one():
    """The search is handed the real rule: here the geometric median behind NNM."""

    def harm(name, **options):
        recipe = parse_recipe(
            {
                "lora": {"r": RANK, "lora_alpha": 6},
                "federation": {"num_clients": 10},
                "aggregator": {"name": "geometric_median", "f": 3, "mixing": ["nnm"]},
                "attack": {"name": name, "num_attackers": 3, **options},
            }
        )
        silent = recipe.model_copy(
            update={"attack": recipe_of("silence").attack,
                    "aggregator": parse_recipe({}).aggregator}
        )  # fmt: skip
        return float((rounds(recipe, 1).outer.anchor - rounds(silent, 1).outer.anchor).norm())

    searched = harm("optimised_ipm")
    assert all(searched >= 0.99 * harm("ipm", epsilon=epsilon) for epsilon in (0.1, 0.5, 1, 2, 10))
