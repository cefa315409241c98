"""What a recipe refuses, and that each refusal says what to do."""

import pytest
from pydantic import ValidationError

from fedtune.recipe import Recipe, RecipeError, load_recipe, parse_recipe


def refusal(raw):
    with pytest.raises(RecipeError) as caught:
        parse_recipe(raw)
    assert len(caught.value.problems) == 1, caught.value.problems
    return caught.value.problems[0]


def test_the_defaults_are_a_recipe():
    recipe = parse_recipe({})
    assert recipe == Recipe()
    assert recipe.model.name_or_path == "nano"
    assert recipe.federation.sample_size == 10
    assert recipe.federation.inner_optimizer == "reset"


@pytest.mark.parametrize(
    ("raw", "key", "meant"),
    [
        ({"federatoin": {}}, "federatoin", "federation"),
        ({"federation": {"num_client": 3}}, "federation.num_client", "num_clients"),
        ({"data": {"partition": {"colum": "a"}}}, "data.partition.colum", "column"),
        ({"lora": {"alpha": 3}}, "lora.alpha", "lora_alpha"),
        ({"data": {"source": {"path": "x", "nme": "a"}}}, "data.source.nme", "name"),
    ],
)
def test_an_unknown_key_names_the_nearest(raw, key, meant):
    problem = refusal(raw)
    assert problem.startswith(f"{key}: unknown key; did you mean {meant!r}? known: ")


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (
            {"aggregator": {"name": "trimed_mean"}},
            "aggregator: no aggregator 'trimed_mean'; did you mean 'trimmed_mean'? known: ",
        ),
        (
            {"aggregator": {"name": "mean", "mixing": ["nmm"]}},
            "aggregator: no mixing 'nmm'; did you mean 'nnm'? known: ",
        ),
        (
            {"attack": {"name": "signflip", "num_attackers": 1}},
            "attack: no attack 'signflip'; did you mean 'sign_flip'? known: ",
        ),
    ],
)
def test_a_misspelt_name_names_the_nearest(raw, problem):
    assert refusal(raw).startswith(problem)


@pytest.mark.parametrize(
    ("raw", "parts"),
    [
        (
            {"aggregator": {"name": "multi_krum", "n_best": 3}},
            ["multi_krum", "'n_best'", "known: m"],
        ),
        ({"aggregator": {"name": "mean", "m": 3}}, ["mean", "'m'"]),
        ({"aggregator": {"name": "multi_krum", "m": 0}}, ["m >= 1", "got 0"]),
        ({"attack": {"name": "sign_flip", "num_attackers": 1, "scal": 3}}, ["'scal'", "'scale'"]),
        ({"attack": {"name": "sign_flip", "num_attackers": 1, "scale": "x"}}, ["scale", "got 'x'"]),
    ],
)
def test_an_option_that_the_named_thing_lacks_is_refused(raw, parts):
    problem = refusal(raw)
    assert all(part in problem for part in parts), problem


@pytest.mark.parametrize(
    ("name", "mixing", "f", "n", "fits"),
    [
        ("krum", [], 3, 9, True),  # 2 * 3 + 3 = 9
        ("krum", [], 3, 8, False),
        ("trimmed_mean", [], 2, 5, True),  # 2 * 2 + 1 = 5
        ("trimmed_mean", [], 2, 4, False),
        ("mean", [], 5, 1, True),  # no defence, no condition
        ("mean", ["nnm"], 1, 3, True),  # the mixing's own: 2 * 1 + 1 = 3
        ("mean", ["nnm"], 1, 2, False),
    ],
)
def test_f_is_bounded_by_rule_and_mixing(name, mixing, f, n, fits):
    raw = {
        "aggregator": {"name": name, "mixing": mixing, "f": f},
        "federation": {"num_clients": n},
    }
    if fits:
        assert parse_recipe(raw).aggregator.f == f
    else:
        assert "aggregator.f" in refusal(raw)


def test_f_too_large_says_need_got_do():
    assert refusal({"aggregator": {"name": "krum", "f": 4, "mixing": ["nnm"]}}) == (
        "aggregator.f: f=4 does not fit n=10 clients a round: krum needs n >= 2f + 3: "
        "got n=10, f=4; lower f or ask at least 11 clients"
    )


def test_f_counts_against_the_sample_of_a_round():
    federation = {"num_clients": 20, "clients_per_round": 6}
    problem = refusal({"aggregator": {"name": "krum", "f": 2}, "federation": federation})
    assert "n=6 clients a round" in problem
    assert "ask at least 7 clients" in problem


def test_a_sample_larger_than_the_federation_is_refused():
    problem = refusal({"federation": {"num_clients": 3, "clients_per_round": 4}})
    assert problem == "federation: clients_per_round must be at most num_clients: got 4 of 3"
    fits = parse_recipe({"federation": {"num_clients": 3, "clients_per_round": 3}})
    assert fits.federation.sample_size == 3


def test_more_attackers_than_clients_are_refused():
    problem = refusal({"attack": {"name": "alie", "num_attackers": 11}})
    assert problem == "attack.num_attackers: got 11 of 10 clients; lower it"


@pytest.mark.parametrize(
    ("outer", "problem"),
    [
        ({"name": "fedavg", "momentum": 0.5}, "fedavg takes no momentum; it takes lr"),
        ({"name": "nesterov", "eps": 1e-8}, "nesterov takes no eps; it takes lr, momentum"),
        ({"name": "adam", "momentum": 0.5}, "adam takes no momentum; it takes betas, eps, lr"),
        (
            {"name": "fedavg", "lr": 0.5},
            "fedavg is lr 1: got 0.5; name nesterov with momentum 0 instead",
        ),
        ({"name": "adam", "betas": [0.9, 1.0]}, "betas must lie in [0, 1): got (0.9, 1.0)"),
    ],
)
def test_an_outer_optimizer_refuses_keys_of_another(outer, problem):
    assert refusal({"outer": outer}) == f"outer: {problem}"


@pytest.mark.parametrize("by", ["natural_id", "dirichlet", "shard"])
def test_a_partition_by_column_needs_one(by):
    assert f"by: {by} needs `column`" in refusal({"data": {"partition": {"by": by}}})


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        ({"lora": {"r": 0}}, "lora.r"),
        ({"lora": {"r": 8.5}}, "lora.r"),
        ({"lora": {"target_modules": [1]}}, "lora.target_modules.0"),
        ({"data": {"test_fraction": 1.0}}, "data.test_fraction"),
        ({"data": {"test_fraction": float("nan")}}, "data.test_fraction"),
        ({"data": {"max_rows": 0}}, "data.max_rows"),
        ({"data": {"source": {"name": "x"}}}, "data.source.path"),
        ({"federation": {"round_timeout_s": float("inf")}}, "federation.round_timeout_s"),
        ({"federation": {"seed": -1}}, "federation.seed"),
        ({"aggregator": {"f": -1}}, "aggregator.f"),
        ({"outer": {"name": "nesterov", "momentum": 1.0}}, "outer.momentum"),
        ({"attack": {"num_attackers": 1}}, "attack.name"),
        ({"attack": {"name": "alie", "num_attackers": 1, "knowledge": "some"}}, "attack.knowledge"),
        ({"report_to": "tensorbord"}, "report_to.0"),
        ({"task": "grpoo"}, "task"),
        ({"evaluation": None}, "evaluation"),
    ],
)
def test_out_of_bounds_is_refused_by_key(raw, key):
    assert refusal(raw).startswith(f"{key}: ")


def test_every_problem_has_its_line():
    with pytest.raises(RecipeError) as caught:
        parse_recipe({"lora": {"r": 0, "rank": 3}, "federation": {"engine": "rey"}})
    keys = [problem.split(":")[0] for problem in caught.value.problems]
    assert keys == ["lora.r", "lora.rank", "federation.engine"]
    assert str(caught.value).count("\n") == 2


def test_knowledge_that_an_attack_has_no_use_for_is_refused():
    # Label noise looks at no update at all.
    raw = {"attack": {"name": "label_noise", "num_attackers": 1, "knowledge": "all"}}
    assert "label_noise has no use for knowledge 'all'" in refusal(raw)


def test_a_recipe_is_frozen():
    recipe = parse_recipe({"attack": {"name": "alie", "num_attackers": 1}})
    for section, key in [
        (recipe, "task"),
        (recipe.lora, "r"),
        (recipe.aggregator, "f"),
        (recipe.aggregator, "m"),
        (recipe.attack, "num_attackers"),
    ]:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, key, 3)


def test_multi_krums_m_counts_in_the_bound_on_n():
    # m = 8 of n - f: n = 10, f = 2 is just enough; m = 9 is not.
    assert load_recipe("quickstart", ["aggregator={name: multi_krum, f: 2, m: 8}"])
    with pytest.raises(RecipeError, match=r"m <= n - f: got m=9, n=10, f=2; set m to 8"):
        load_recipe("quickstart", ["aggregator={name: multi_krum, f: 2, m: 9}"])


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ({"geometri": "product"}, "unknown key 'geometri'; did you mean 'geometry'?"),
        ({"combination": "exact"}, "are of geometry: product"),
        ({"residual": "carry"}, "are of geometry: product"),
        ({"name": "median", "geometry": "product"}, "has no use for products without a mixing"),
        (
            {"name": "median", "geometry": "product", "mixing": ["nnm"], "combination": "dense"},
            "dense takes no mixing",
        ),
        (
            {"name": "median", "geometry": "product", "mixing": ["nnm"], "combination": "exact"},
            "works on coordinates",
        ),
        ({"geometry": "product", "combination": "dense"}, "dense is for rules on columns"),
        (
            {"geometry": "product", "combination": "factors", "residual": "carry"},
            "residual: carry is of combination: exact and dense",
        ),
    ],
)
def test_what_a_geometry_cannot_do_is_refused_with_the_reason(section, reason):
    problem = refusal({"aggregator": {"name": "mean", **section}})
    assert problem.startswith("aggregator: ")
    assert reason in problem


@pytest.mark.parametrize(
    ("section", "combined_by"),
    [
        ({"name": "mean"}, "factors"),
        ({}, "exact"),
        ({"geometry": "product"}, "exact"),
        ({"geometry": "product", "combination": "factors"}, "factors"),
        ({"geometry": "product", "name": "median", "mixing": ["nnm"]}, "factors"),
        ({"geometry": "product", "name": "median", "combination": "dense"}, "dense"),
    ],
)
def test_the_combination_follows_from_geometry_and_rule(section, combined_by):
    assert parse_recipe({"aggregator": section}).aggregator.combined_by == combined_by


def test_a_mixing_may_bring_options():
    section = {"name": "mean", "mixing": ["nnm", {"name": "nnm"}]}
    assert parse_recipe({"aggregator": section}).aggregator.mixing_names == ["nnm", "nnm"]
    section = {"name": "mean", "mixing": [{"name": "nnm", "s": 2}]}
    assert "unknown option of nnm: got 's'" in refusal({"aggregator": section})


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ({"name": "krum", "f": 1}, "krum does not average its clients one by one"),
        ({"name": "geometric_median", "f": 1, "mixing": ["nnm"]}, "mix nothing"),
        ({"name": "geometric_median", "f": 2}, "f=2 clients can have 57% of the weight"),
    ],
)
def test_client_weights_that_a_round_would_refuse_are_refused_at_once(section, reason):
    section = {**section, "client_weights": [4.0, 4.0, *[1.0] * 8]}
    assert reason in refusal({"aggregator": section})


def test_client_weights_are_positive_and_one_for_each_client():
    section = {"name": "mean", "client_weights": [1.0] * 9}
    assert "needs one for each of 10 clients; got 9" in refusal({"aggregator": section})
    section["client_weights"] = [0.0, *[1.0] * 9]
    assert "client_weights" in refusal({"aggregator": section})
    section = {"name": "geometric_median", "f": 2, "client_weights": [2.0, 2.0, *[1.0] * 8]}
    # Two may be absent: of eight the two heaviest have 4 of 4 + 6.
    assert parse_recipe({"aggregator": section}).aggregator.heaviest_share(10) == 4 / 10


def test_client_weights_hold_in_a_round_with_f_absent():
    # All ten: 9 of 23. Three of those that weigh 2 absent: 9 of 17, and f liars are the majority.
    section = {"name": "geometric_median", "f": 3, "client_weights": [3.0] * 3 + [2.0] * 7}
    assert "can have 53% of the weight in a round of 10 with up to 3" in refusal(
        {"aggregator": section}
    )
    # A round of fewer than 2f + 1 = 9 clients is none, so that equal weights hold at any f.
    section = {"name": "geometric_median", "f": 4, "client_weights": [1.0] * 10}
    assert parse_recipe({"aggregator": section}).aggregator.heaviest_share(10) == 4 / 9
