"""A recipe that names no rule. Why it gets this one: docs/results/searched.md."""

import pytest

from fedtune.recipe import RecipeError, parse_recipe


@pytest.mark.parametrize(
    ("federation", "f"),
    [
        ({}, 3),  # ten clients
        ({"num_clients": 10}, 3),
        ({"num_clients": 10, "clients_per_round": 7}, 2),  # 2.1
        ({"num_clients": 3}, 0),
        ({"num_clients": 20}, 6),
        ({"num_clients": 1}, 0),
        ({"num_clients": "10"}, 3),  # as pydantic reads it
        ({"num_clients": 10.0}, 3),
    ],
)
def test_three_tenths_of_a_round_may_lie(federation, f):
    recipe = parse_recipe({"federation": federation})
    assert recipe.aggregator.name == "capped_spectral"
    assert recipe.aggregator.mixing == []
    assert recipe.aggregator.geometry == "product"
    assert recipe.aggregator.f == f
    assert recipe.defence.suspicion is None


def test_what_is_given_stays():
    recipe = parse_recipe({"aggregator": {"f": 1, "geometry": "factors"}})
    assert (recipe.aggregator.name, recipe.aggregator.f) == ("capped_spectral", 1)
    assert recipe.aggregator.geometry == "factors"
    with_suspicion = parse_recipe({"defence": {"suspicion": 0.5}})
    assert with_suspicion.aggregator.name == "capped_spectral"
    assert with_suspicion.defence.suspicion == 0.5
    assert parse_recipe({"aggregator": {"f": "2"}}).aggregator.f == 2
    named = parse_recipe({"aggregator": {"name": "mean"}})
    assert (named.aggregator.f, named.aggregator.mixing) == (0, [])


def test_an_outer_optimizer_that_steps_coordinates_gets_factors():
    recipe = parse_recipe({"outer": {"name": "adam"}})
    assert recipe.aggregator.name == "capped_spectral"
    assert recipe.aggregator.geometry == "factors"
    assert parse_recipe({"outer": {"name": "nesterov"}}).aggregator.geometry == "product"
    with pytest.raises(RecipeError, match="outer"):
        parse_recipe({"outer": {"name": "adam"}, "aggregator": {"geometry": "product"}})


def test_a_default_travels_as_it_is():
    recipe = parse_recipe({})
    assert parse_recipe(recipe.model_dump_json()) == recipe
    assert parse_recipe(recipe.model_dump()) == recipe


def test_wrong_sections_are_still_named():
    with pytest.raises(RecipeError, match="aggregator"):
        parse_recipe({"aggregator": "krum"})
    with pytest.raises(RecipeError, match=r"federation\.num_clients"):
        parse_recipe({"federation": {"num_clients": "ten"}})
    with pytest.raises(RecipeError, match=r"aggregator\.f"):
        parse_recipe({"aggregator": {"f": "two"}})
    with pytest.raises(RecipeError, match="option of capped_spectral"):
        parse_recipe({"aggregator": {"m": 3}})
