"""An attack tried before a run: refused for its options and counts, never for made-up values.

Not proven here: that real values leave an attack room. Where they do not, round 1 says so.
"""

import pytest

import attacks
from fedtune.recipe import load_recipe
from fedtune.runs.checks.preflight import find_problems
from fedtune.simulation.attack_check import rehearse

ON_UPDATES = {name: one for name, one in attacks.ATTACKS.items() if one.level == "update"}
BOTH_FACTORS = ["alie_product", "factor_laundering", "gauge", "min_max_product", "rank_inflation",
                "stretch"]  # fmt: skip
TEN_CLIENTS = ("federation.num_clients=10", "aggregator={name: trimmed_mean, f: 3}")


def refusal(name, *overrides, liars=3, **options):
    given = "".join(f", {key}: {value}" for key, value in options.items())
    attack = f"attack={{name: {name}, num_attackers: {liars}{given}}}"
    return rehearse(load_recipe("quickstart", [*TEN_CLIENTS, attack, *overrides]))


@pytest.mark.parametrize(
    ("name", "rank"),
    [
        pytest.param(name, rank, marks=pytest.mark.slow if (k + i) % 3 else ())
        for k, name in enumerate(ON_UPDATES)
        for i, rank in enumerate([1, 8, 40])
    ],
)
def test_every_attack_passes_at_its_defaults(name, rank):
    for knowledge in ON_UPDATES[name].knowledge:
        assert refusal(name, f"lora.r={rank}", f"attack.knowledge={knowledge}") is None


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rank_inflation", {"keep": 0}),
        ("rank_inflation", {"keep": 7}),
        ("modules", {"module": 2}),
        ("neurotoxin", {"keep": 0.001}),
        ("stretch", {"budget": 0.1}),
        ("stretch", {"budget": 0.01}),
        ("stretch", {"stretch": 1.0}),
        ("min_max_product", {"direction": "sign", "max_stretch": 1.0}),
        ("min_max_product", {"direction": "std"}),
        ("factor_laundering", {"strength": 0.0}),
        ("alie_product", {"z": 1e3}),
        ("gauge", {"form": "rotate"}),
    ],
)
@pytest.mark.parametrize("liars", [1, 4])
def test_options_that_a_run_carries_out_pass(name, options, liars):
    assert refusal(name, "lora.r=8", liars=liars, **options) is None


@pytest.mark.parametrize("train", ["b_only", "alternate"])
@pytest.mark.parametrize("name", ON_UPDATES)
def test_an_attack_on_both_factors_needs_both_trained(name, train):
    told = refusal(name, f"lora.train={train}")
    if name in BOTH_FACTORS:
        assert told.startswith(f"with 3 attackers of 10: {name} needs both factors trained: got B")
    else:
        assert told is None


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("rank_inflation", {"keep": 8}, "keep below the highest rank of a product, 8: got 8"),
        ("stretch", {"budget": 0.0}, "got none of 3; raise budget"),
        ("copy_cat", {"which": 9}, "got 9; lower which"),
    ],
)
def test_options_that_no_run_carries_out_are_refused(name, options, told):
    assert told in refusal(name, "lora.r=8", **options)


def test_a_module_is_looked_for_in_the_model(tiny_model_folder):
    model = [f"model.name_or_path={tiny_model_folder('llama')}", "lora.target_modules=[q_proj]"]
    names = refusal("modules", *model, module=10_000)
    count = int(names.split("needs one of 0 to ")[1].split(":")[0]) + 1
    assert refusal("modules", *model, module=count - 1) is None
    assert f"got {count}" in refusal("modules", *model, module=count)
    assert refusal("modules", "model.name_or_path=/no/such/folder", module=10_000) is None


def test_ranks_that_clients_hold_are_kept():
    mixed = ["lora.r=8", "lora.client_ranks=[2, 2, 2, 2, 2, 8, 8, 8, 8, 8]",
             "aggregator={name: caf, f: 3, geometry: product}"]  # fmt: skip
    assert refusal("rank_inflation", *mixed) is None
    assert "got 8" in refusal("rank_inflation", *mixed, keep=8)


def test_who_is_not_handed_the_rule_cannot_search_it():
    # fltrust compares with the server's own rows: no liar has them
    secret = "aggregator={name: fltrust}", "data.server_rows=64"
    assert "needs scene.defence: got None" in refusal("optimised_ipm", *secret)
    assert refusal("factor_laundering", *secret) is None
    assert refusal("optimised_ipm") is None


def test_one_liar_has_no_fellows():
    told = refusal("stretch", "attack.knowledge=fellows", liars=1)
    assert told.startswith("with 1 attackers of 10: stretch needs >= 2 visible updates")


def test_a_refusal_is_a_problem_of_the_recipe():
    problems = find_problems(
        load_recipe(
            "quickstart",
            [*TEN_CLIENTS, "lora.train=b_only", "attack={name: gauge, num_attackers: 1}"],
        )
    )
    assert [problem.split(":")[0] for problem in problems] == ["attack"]
    assert "gauge needs both factors trained" in problems[0]
