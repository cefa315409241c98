"""The JSON schema of recipes: it is the shipped file, and refuses no recipe that is read.

Not proven here: that any one editor heeds the line in each shipped recipe.
"""

import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from fedtune.recipe import shipped_recipes
from fedtune.recipe.json_schema import json_schema
from fedtune.recipe.stages import load

ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "recipes" / "recipe.schema.json"


@pytest.fixture(scope="module")
def problems():
    """Return a function: a recipe -> where the schema refuses it."""
    checker = Draft202012Validator(json_schema())
    return lambda raw: [
        ".".join(str(key) for key in error.absolute_path) or error.message
        for error in checker.iter_errors(raw)
    ]


def test_the_shipped_file_is_what_the_command_prints():
    assert json.loads(SHIPPED.read_text(encoding="utf-8")) == json_schema(), (
        "fedtune schema > recipes/recipe.schema.json"
    )
    Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_passes_and_names_the_schema(name, problems):
    text = shipped_recipes()[name].read_text(encoding="utf-8")
    assert problems(yaml.safe_load(text)) == []
    above = "../" * name.count("/")
    assert text.splitlines()[0] == f"# yaml-language-server: $schema={above}recipe.schema.json"


@pytest.mark.parametrize(
    "section",
    [
        {"defence": {"vote": True}},
        {"defence": {"vote": {"tolerance": 0.1}}},
        {"defence": {"server_data": True}, "data": {"source": "python-docs", "server_rows": 8}},
        {"report_to": "tensorboard"},
        {"report_to": None},
        {"report_to": "none"},
        {"aggregator": {"name": "caf", "mixing": ["agreement", {"name": "clipping", "radius": 1}]}},
        {"attack": {"name": "on_off", "num_attackers": 1}},
        {"attack": {"name": "capture", "num_attackers": 1, "poison": "ascent", "rounds": "last"}},
        {"lora": {"target_modules": ["q_proj"]}},
    ],
)
def test_what_the_reader_takes_the_schema_takes(section, problems):
    """The other way round it need not hold: the reader knows more."""
    raw = yaml.safe_load(shipped_recipes()["quickstart"].read_text(encoding="utf-8")) | section
    given = [f"{key}={json.dumps(value)}" for key, value in section.items()]
    load("quickstart", given)
    assert problems(raw) == []


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"federation": {"num_round": 3}}, "federation"),
        ({"federation": {"num_rounds": "three"}}, "federation.num_rounds"),
        ({"lora": {"r": 0}}, "lora.r"),
        ({"tusk": "sft"}, "Additional properties are not allowed ('tusk' was unexpected)"),
        ({"stages": [{"task": "sft"}]}, "stages.0"),
        ({"stages": [{"name": "a", "start": "anew"}]}, "stages.0.start"),
    ],
)
def test_what_is_wrong_is_found_where_it_stands(wrong, where, problems):
    raw = yaml.safe_load(shipped_recipes()["quickstart"].read_text(encoding="utf-8")) | wrong
    assert problems(raw) == [where]
