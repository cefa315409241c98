"""Who poisons, with what, and what the records say of a planted backdoor, on a tiny model.

That a backdoor opens: test_backdoor_in_a_run.
"""

import json

import pytest

from fedtune.recipe import load_recipe
from fedtune.runs.checks.preflight import find_problems
from fedtune.runs.evaluation import planted_backdoor
from fedtune.simulation.adversary import byzantine_clients
from fedtune.simulation.poisoning import poison_of

TRIGGER = {"name": "trigger", "token": "cf", "target": "No", "rate": 0.5}
ROWS = [{"prompt": f"q{i} ", "completion": f"a{i}"} for i in range(8)]


def train_losses(record):
    return {int(client): facts["train_loss"] for client, facts in record["clients"].items()}


def test_the_success_of_a_planted_backdoor_is_recorded_at_each_evaluation(tiny_recipe, run):
    sections = {"federation": {"num_rounds": 2}, "evaluation": {"backdoor_rows": 3}}
    folder = run(tiny_recipe(**sections, attack={**TRIGGER, "num_attackers": 2}))
    success = [record["eval"]["backdoor_success"] for record in folder.read_metrics()]
    without = [record["eval"]["backdoor_untriggered"] for record in folder.read_metrics()]
    assert len(success) == len(without) == 3
    assert without[0] == 0
    assert success[0] == 0
    assert set(success) <= {0, 1 / 3, 2 / 3, 1}
    # Nobody lies, or what they do plants nothing: nothing is said.
    for attack in ({**TRIGGER, "num_attackers": 0}, {"name": "label_noise", "num_attackers": 1}):
        for record in run(tiny_recipe(**sections, attack=attack)).read_metrics():
            assert "backdoor_success" not in record["eval"]


def test_a_line_that_was_cut_off_is_measured_again_whole(tiny_recipe, run):
    recipe = tiny_recipe(
        federation={"num_rounds": 1},
        evaluation={"backdoor_rows": 3},
        attack={**TRIGGER, "num_attackers": 2},
    )
    folder = run(recipe)
    before = [record["eval"] for record in folder.read_metrics()]
    folder.metrics.write_text("")
    run.resume(recipe, folder)
    assert [record["eval"] for record in folder.read_metrics()] == before


def test_poison_changes_what_the_liars_train_on_and_the_attack_stays(tiny_recipe, run):
    # sign_flip of the poisoned update: the liars' losses are those of the trigger alone.
    sections = {"federation": {"num_rounds": 1}, "evaluation": {"backdoor_rows": 3}}
    flip = {"name": "sign_flip", "num_attackers": 2}
    attacks = ({**TRIGGER, "num_attackers": 2}, {**flip, "poison": TRIGGER}, flip)
    trigger, both, alone = (
        run(tiny_recipe(**sections, attack=attack)).read_metrics()[-1] for attack in attacks
    )
    liars = byzantine_clients(tiny_recipe(attack=flip))
    assert train_losses(both) == train_losses(trigger)
    assert {c for c in range(4) if train_losses(both)[c] != train_losses(alone)[c]} == liars
    assert both["eval"]["loss"] not in {trigger["eval"]["loss"], alone["eval"]["loss"]}
    assert "backdoor_success" in both["eval"]
    assert "backdoor_success" not in alone["eval"]


def test_sybils_plant_their_own_part_in_the_order_of_their_numbers(tiny_recipe):
    attack = {"name": "distributed_trigger", "token": "x y z", "rate": 1.0, "num_attackers": 3}
    recipe = tiny_recipe(attack=attack)
    liars = sorted(byzantine_clients(recipe))
    asked = {}
    for client in range(4):
        poison = poison_of(recipe, client)
        assert (poison is not None) == (client in liars)
        if poison is not None:
            asked[client] = {row["prompt"].split(" q")[0] for row in poison.spoil(ROWS)}
    assert asked == dict(zip(liars, ({"x"}, {"y"}, {"z"}), strict=True))
    backdoor = planted_backdoor(recipe)
    assert backdoor.plant(ROWS[0])["prompt"] == "x y z q0 "


def problems(data, *overrides):
    base = [f"data.source={data}", "data.partition={by: iid, min_rows: 2}"]
    return find_problems(load_recipe("quickstart", [*base, *overrides]))


def test_preference_flip_is_refused_where_nothing_is_preferred(small_data):
    told = "preference_flip needs a chosen and a rejected in every row: row 0 has ['completion', "
    flip = "{name: preference_flip, num_attackers: 2}"
    (problem,) = problems(small_data("jsonl"), f"attack={flip}")
    assert problem.startswith(f"attack: {told}")
    assert "an attack on preference data" in problem
    ipm = "attack={name: ipm, num_attackers: 2, poison: preference_flip}"
    (problem,) = problems(small_data("jsonl"), ipm)
    assert problem.startswith(f"attack.poison: {told}")


def test_columns_that_training_does_not_read_are_no_ground_for_a_poison(tmp_path):
    path = tmp_path / "pairs.jsonl"
    pairs = [{**row, "chosen": "c", "rejected": "r"} for row in ROWS * 8]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (problem,) = problems(path, "attack={name: preference_flip, num_attackers: 2}")
    assert "row 0 has ['completion', 'prompt']" in problem


@pytest.mark.parametrize(
    ("attack", "told"),
    [
        ("{name: distributed_trigger, parts: 3, num_attackers: 2}", "attack: distributed_trigger "
         "needs at least as many attackers as parts: got 2 for 3 parts"),
        ("{name: ipm, num_attackers: 2, poison: {name: distributed_trigger, parts: 3}}",
         "attack.poison: distributed_trigger needs at least as many attackers as parts"),
    ],
)  # fmt: skip
def test_parts_without_liars_are_known_before_a_run(small_data, attack, told):
    (problem,) = problems(small_data("jsonl"), f"attack={attack}")
    assert problem.startswith(told)
    assert problems(small_data("jsonl"), f"attack={attack}", "attack.num_attackers=0") == []


def test_a_trigger_wants_a_prompt(small_data):
    trigger = "attack={name: trigger, num_attackers: 2}"
    assert problems(small_data("jsonl"), trigger) == []
    for format in ("text", "messages"):
        (problem,) = problems(small_data("jsonl", format), trigger)
        assert problem.startswith("attack: trigger needs a prompt and a completion in every row")
