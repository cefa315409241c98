"""The section defence.server_data: what it may say, and with what it goes."""

import pytest

from fedtune.recipe import RecipeError, parse_recipe, to_yaml
from fedtune.recipe.source import load_recipe


def recipe(server_data=True, **sections):
    return parse_recipe(
        {
            "data": {"server_rows": 8},
            "defence": {"server_data": server_data, **sections.pop("defence", {})},
            **sections,
        }
    )


def test_true_means_the_defaults_and_nothing_is_tried_unless_asked_for():
    assert parse_recipe({}).defence.server_data is None
    assert recipe(False).defence.server_data is None
    assert recipe(None).defence.server_data is None
    assert recipe(True) == recipe({}) == recipe({"tolerance": TOLERANCE})
    assert recipe({"tolerance": 0}).defence.server_data.tolerance == 0


TOLERANCE = 0.0


def test_it_travels_and_is_overridden(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(to_yaml(recipe({"tolerance": 0.1})))
    assert load_recipe(path).defence.server_data.tolerance == 0.1
    changed = load_recipe(path, ["defence.server_data.tolerance=0.3"])
    assert changed.defence.server_data.tolerance == 0.3


@pytest.mark.parametrize(
    "sections",
    [
        {"aggregator": {"name": "mean", "f": 0}},
        {"aggregator": {"name": "trimmed_mean", "f": 1}},
        {"aggregator": {"name": "median", "geometry": "product", "combination": "dense"}},
        {"aggregator": {"name": "foolsgold", "f": 1}},
        {"aggregator": {"name": "fltrust"}},
        {"aggregator": {"name": "mean", "client_weights": [1.0] * 10}},
        {"aggregator": {"name": "caf", "f": 1}, "defence": {"suspicion": 0.5}},
        {"aggregator": {"name": "caf", "f": 1}, "defence": {"momentum": 0.5}},
        {"aggregator": {"name": "caf", "f": 1}, "defence": {"vote": True}},
    ],
)
def test_it_looks_at_the_step_alone_and_goes_with_every_rule(sections):
    assert recipe(federation={"num_clients": 10}, **sections).defence.server_data


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"tolerance": -0.01}, "tolerance"),
        ({"tolerance": float("inf")}, "tolerance"),
        ({"tolerance": float("nan")}, "tolerance"),
        ({"f": 1}, "server_data.f"),
        ({"toleranse": 0.1}, "tolerance"),  # the nearest key is named
        ("yes", "server_data"),
    ],
)
def test_what_is_out_of_bounds_is_refused(section, said):
    with pytest.raises(RecipeError, match=said):
        recipe(section)


def test_rows_there_must_be():
    with pytest.raises(RecipeError, match=r"defence\.server_data: needs data\.server_rows: got 0"):
        recipe(data={"server_rows": 0})
