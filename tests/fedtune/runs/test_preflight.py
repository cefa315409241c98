"""What `fedtune check` knows before a model is loaded. Its messages in a terminal: test_cli.

Not proven here: what a machine with a GPU is told.
"""

import os

import pytest

from fedtune.recipe import load_recipe
from fedtune.runs.checks.preflight import find_problems
from fedtune.runs.checks.risks import chance_of_more, find_risks


def checked(*overrides):
    return find_problems(load_recipe("quickstart", overrides))


def test_the_quickstart_is_without_problem_or_risk():
    assert checked() == []
    assert find_risks(load_recipe("quickstart")) == []


def test_the_chance_of_too_many_attackers_in_a_sample():
    # 2 attackers among 4 clients, 2 asked, f = 1: only the pair of both, 1 of C(4, 2) = 6.
    assert chance_of_more(2, 4, 2, 1) == pytest.approx(1 / 6)
    assert chance_of_more(2, 4, 2, 2) == 0
    assert chance_of_more(3, 3, 2, 1) == 1  # who is asked lies
    # All ten of ten asked: the three attackers are among them for sure.
    assert chance_of_more(3, 10, 10, 2) == 1
    assert chance_of_more(3, 10, 10, 3) == 0


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["aggregator.f=1"], "the rule assumes f=1 attackers; the simulation has 2"),
        (["aggregator={name: mean}"], "withstands no attacker"),
        (["outer.momentum=0.9"], "lr/(1-momentum) is 7.0"),
        (
            ["aggregator={name: krum, f: 3}"],
            "3 silent clients of 10 leave 7 replies, and krum at f=3 needs 9: they can stop this "
            "run; lower f to 2, or name capped_spectral, which needs 7",
        ),
        (  # 4 silent of 10 leave 6, and 2f + 1 is 9; at f = 3 it is 7 of 7
            ["aggregator={f: 4}"],
            "4 silent clients of 10 leave 6 replies, and capped_spectral at f=4 needs 9: they can "
            "stop this run; lower f to 3",
        ),
        (["aggregator={name: krum, f: 1}"], "krum can leave up to 9 of 10 clients without weight"),
        (
            ["aggregator={name: caf, f: 3, mixing: [agreement]}"],
            "agreement + caf can leave up to 8 of 10 clients without weight",
        ),
        (
            ["aggregator={name: capped_spectral, f: 3}", "defence={suspicion: 0.7}"],
            "capped_spectral + suspicion can leave up to 6 of 10 clients without weight",
        ),
        (
            [
                "aggregator={name: median, f: 2, geometry: product, combination: dense}",
                "outer={name: fedavg}",
            ],
            "costs n d_out d_in numbers for each module, where the factors have n r (d_out + d_in)",
        ),
        (
            ["aggregator={name: mean, client_weights: [1, 1, 1, 1, 1, 1, 1, 1, 8, 4]}"],
            "while f counts clients: client 8 alone has 40.0% of all",
        ),
    ],
)
def test_what_an_owner_should_know_is_said(overrides, told):
    assert any(told in risk for risk in find_risks(load_recipe("quickstart", overrides)))


@pytest.mark.parametrize("f", range(4))
def test_a_rule_that_runs_without_f_of_its_clients_and_leaves_out_no_more_is_no_risk(f):
    rules = ["capped_spectral", "geometric_median", "trimmed_mean", "median", "smea"]
    for name in rules if f else ["mean"]:
        found = find_risks(load_recipe("quickstart", [f"aggregator={{name: {name}, f: {f}}}"]))
        assert not any("stop this run" in risk or "without weight" in risk for risk in found), name


def test_an_attack_is_tried_with_every_count_of_liars_that_a_sample_can_hold():
    # Of 9 clients 4 lie, 6 are asked: 1 to 4 liars. z_max(6, 4) wants floor(6/2) + 1 - 4 = 0
    # supporters, and is undefined; with a z of its own there is nothing to work out.
    few = ["federation.num_clients=9", "federation.clients_per_round=6", "aggregator={name: mean}"]
    attack = "attack={name: alie, num_attackers: 4}"
    (problem,) = checked(*few, attack)
    assert problem.startswith("attack: with 4 attackers of 6: alie's z_max needs")
    assert checked(*few, attack, "attack.z=1.5") == []


def test_an_attack_that_harms_no_one_is_said():
    alie = ["attack={name: alie, num_attackers: 2}"]  # z_max(10, 2) = 0
    (risk,) = find_risks(load_recipe("quickstart", alie))
    assert "2 attackers of 10 is 0.00" in risk
    assert find_risks(load_recipe("quickstart", [*alie, "attack.z=1.5"])) == []


def test_a_poison_that_does_not_fit_the_data_is_known(small_data):
    overrides = [
        "attack={name: label_noise, num_attackers: 2}",
        "data.partition={by: iid, min_rows: 2}",
    ]
    assert checked(*overrides, f"data.source={small_data('jsonl')}") == []
    (problem,) = checked(*overrides, f"data.source={small_data('jsonl', 'text')}")
    assert problem.startswith("attack: ")
    assert "completion" in problem


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (f"federation.threads_per_client={(os.cpu_count() or 1) + 1}", "CPUs; got"),
        ("federation.client_gpus=64", "GPUs a client; got"),
    ],
)
def test_more_than_the_machine_has_is_known(override, told):
    (problem,) = checked(override)
    assert told in problem


PRODUCT = "aggregator={name: krum, f: 2, geometry: product}"
SHORT = "train.max_length=64"
FACTORS = "aggregator={name: krum, f: 2, geometry: factors}"


def test_a_rank_beyond_a_modules_inputs_is_known_in_products(tiny_model_folder):
    # The tiny llama's v_proj has 32 inputs and 16 outputs, its down_proj 64 inputs.
    model = f"model.name_or_path={tiny_model_folder('llama')}"
    (problem,) = checked(model, PRODUCT, "lora.r=40")
    assert problem.startswith(
        "lora.r: geometry: product needs r of at most 32, the inputs of model"
    )
    assert "the A of gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj has not" in problem
    assert checked(model, PRODUCT, "lora.r=32") == []
    assert checked(model, PRODUCT, "lora.r=64", "lora.target_modules=[down_proj]") == []
    assert checked(model, PRODUCT, "lora.r=40", "lora.train=b_only") == []
    assert checked(model, FACTORS, "lora.r=40") == []


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings", "ignore:.*fan_in_fan_out")
@pytest.mark.parametrize(("architecture", "name"), [("llama", "embed_tokens"), ("gpt2", "wte")])
def test_an_embedding_has_no_gauge_in_products(tiny_model_folder, architecture, name):
    # PEFT draws an embedding's B and starts its A at zero: all singular values are zero.
    model = f"model.name_or_path={tiny_model_folder(architecture)}"
    inner = "c_attn" if architecture == "gpt2" else "q_proj"
    targets = f"lora.target_modules=[{inner}, {name}]"
    (problem,) = checked(model, PRODUCT, targets, SHORT)
    assert problem.startswith("lora.target_modules: geometry: product needs an A of full rank: got")
    assert f"{name}, an embedding, on which PEFT starts A at zero; leave it out" in problem
    assert checked(model, PRODUCT, targets, SHORT, "lora.train=alternate") == []
    assert checked(model, FACTORS, targets, SHORT) == []


def test_a_rank_is_no_problem_of_a_module_that_is_not_there():
    (problem,) = checked(PRODUCT, "lora.r=999", "lora.target_modules=[v_prjo]")
    assert problem.startswith("lora.target_modules: no module 'v_prjo'")


def test_equal_weights_are_no_risk():
    weights = (
        "aggregator={name: centered_clipping, f: 2, client_weights: [2, 2, 2, 2, 2, 2, 2, 2, 2, 2]}"
    )
    assert not any(
        "client_weights" in risk for risk in find_risks(load_recipe("quickstart", [weights]))
    )
