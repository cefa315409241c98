"""A recipe that was read holds every default that a run will use, and reads back to itself."""

import pytest

from fedtune.recipe import Recipe, parse_recipe, shipped_recipes, to_yaml
from fedtune.recipe.reading import read_text
from fedtune.recipe.stages import as_mapping, lay_out, load


@pytest.mark.parametrize(
    ("outer", "rates"),
    [
        ({}, (1.0, 0.0)),
        ({"name": "nesterov"}, (0.7, 0.5)),
        ({"name": "nesterov", "momentum": 0.0}, (0.7, 0.0)),
        ({"name": "adam", "lr": 0.1}, (0.1, 0.0)),
    ],
)
def test_an_outer_optimizer_has_its_own_rates(outer, rates):
    section = {"aggregator": {"name": "mean"}, "outer": outer}
    assert parse_recipe(section).outer.rates == rates


def test_adam_has_the_numbers_of_its_name():
    outer = parse_recipe({"aggregator": {"name": "mean"}, "outer": {"name": "adam"}}).outer
    assert (outer.lr, outer.betas, outer.eps) == (1e-3, (0.9, 0.99), 1e-8)
    assert outer.momentum is None  # it has none


@pytest.mark.parametrize(
    ("aggregator", "combination", "max_stretch"),
    [
        ({"name": "krum"}, "exact", 100.0),
        ({"name": "krum", "geometry": "factors"}, "factors", 3.0),
        ({"name": "krum", "geometry": "product"}, "exact", 100.0),
        ({"name": "krum", "geometry": "product", "max_stretch": 7}, "exact", 7.0),
        ({"name": "median", "geometry": "product", "mixing": ["nnm"]}, "factors", 3.0),
        ({"name": "median", "geometry": "product", "combination": "dense"}, "dense", 100.0),
    ],
)
def test_the_combination_and_its_bound_follow_from_the_rule(aggregator, combination, max_stretch):
    section = parse_recipe({"aggregator": aggregator}).aggregator
    assert (section.combination, section.max_stretch) == (combination, max_stretch)


def test_a_round_asks_everyone_and_the_voters_are_scaled_from_it():
    assert parse_recipe({"federation": {"num_clients": 7}}).federation.clients_per_round == 7
    federation = {"num_clients": 20, "clients_per_round": 10}
    recipe = parse_recipe({"federation": federation, "defence": {"vote": True}})
    assert recipe.aggregator.f == 3
    assert recipe.defence.vote is not None
    assert recipe.defence.vote.f == 6  # 3 of 10, of 20 clients


def test_an_attack_sees_the_most_that_it_can():
    attack = {"name": "alie", "num_attackers": 1}
    assert parse_recipe({"attack": attack}).attack.knowledge == "all"
    attack = {"name": "silence", "num_attackers": 1}
    assert parse_recipe({"attack": attack}).attack.knowledge is None  # it looks at no update


def test_what_was_resolved_does_not_count_as_given():
    recipe = parse_recipe({"outer": {"name": "nesterov"}})
    assert recipe.outer.model_fields_set == {"name"}


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_reads_back_to_itself(name):
    loaded = load(name)
    if isinstance(loaded, Recipe):
        assert parse_recipe(read_text(to_yaml(loaded))) == loaded
        assert parse_recipe(loaded.model_dump_json()).model_dump_json() == loaded.model_dump_json()
    else:
        assert lay_out(as_mapping(loaded)) == loaded


@pytest.mark.parametrize(
    ("aggregator", "clients", "f", "geometry"),
    [
        ({"name": "krum"}, 10, 3, "product"),
        ({"name": "krum"}, 8, 2, "product"),
        ({"name": "bulyan"}, 10, 1, "factors"),  # it needs 4f + 3
        ({"name": "trimmed_mean"}, 10, 3, "factors"),
        ({"name": "trimmed_mean", "mixing": ["nnm"]}, 10, 3, "product"),
        ({"name": "foolsgold"}, 10, 3, "factors"),
        ({"name": "mean"}, 10, 0, "factors"),
        ({"name": "krum", "f": 1, "geometry": "factors"}, 10, 1, "factors"),
        ({"geometry": "factors"}, 10, 3, "factors"),
    ],
)
def test_a_named_rule_keeps_the_default_f_and_geometry(aggregator, clients, f, geometry):
    recipe = {"aggregator": aggregator, "federation": {"num_clients": clients}}
    section = parse_recipe(recipe).aggregator
    assert (section.f, section.geometry) == (f, geometry)


def test_what_averages_or_steps_rows_keeps_a_named_rule_on_factors():
    for beside in ({"outer": {"name": "adam"}}, {"defence": {"momentum": 0.5}}):
        recipe = parse_recipe({"aggregator": {"name": "krum"}, **beside})
        assert (recipe.aggregator.f, recipe.aggregator.geometry) == (3, "factors")
