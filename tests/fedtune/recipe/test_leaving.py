"""A recipe that leaves for a node names no folder of the machine that it leaves."""

import json

import pytest

from fedtune.recipe import load_recipe, parse_recipe, shipped_recipes
from fedtune.recipe.leaving import differences, leaving

HOME = "/home/launcher-of-this"
PATHS = {
    "task": "grpo",
    "model": {"name_or_path": f"{HOME}/models/base"},
    "initial_adapter": f"{HOME}/runs/sft",
    "reference": f"{HOME}/runs/reference/adapter",
    "rewards": [{"name": "reward_model", "adapter": f"{HOME}/runs/reward"}],
    "data": {"source": f"{HOME}/rows.jsonl"},
    "federation": {
        "engine": "superlink",
        "deployment": f"{HOME}/fed",
        "num_clients": 4,
    },
    "aggregator": {"name": "mean"},
    "report_to": ["tensorboard"],
    "output_dir": f"{HOME}/runs/run",
}


def test_no_path_of_the_launcher_is_left():
    left = leaving(parse_recipe(PATHS))
    assert "launcher" not in left.model_dump_json()
    assert left.model.name_or_path == "base"
    assert left.data.source == "rows.jsonl"
    assert (left.initial_adapter, left.reference) == ("sft", "adapter")
    assert left.rewards[0].adapter == "reward"
    assert leaving(left) == left
    parse_recipe(left.model_dump_json())


@pytest.mark.parametrize("files", [f"{HOME}/a.csv", [f"{HOME}/a.csv", "~/b.csv"]])
def test_files_of_a_data_set_lose_their_folders(files):
    source = {"path": "csv", "data_files": files, "split": "train"}
    left = leaving(parse_recipe({**PATHS, "data": {"source": source}}))
    assert left.data.source.path == "csv"
    names = left.data.source.data_files
    assert names == ("a.csv" if isinstance(files, str) else ["a.csv", "b.csv"])


def test_names_of_a_hub_and_addresses_stay():
    hub = {**PATHS, "model": {"name_or_path": "Qwen/Qwen3-0.6B"}}
    address = {"path": "json", "data_files": "https://example.org/rows.json"}
    left = leaving(parse_recipe({**hub, "data": {"source": address}}))
    assert left.model.name_or_path == "Qwen/Qwen3-0.6B"
    assert left.data.source.data_files == "https://example.org/rows.json"
    assert leaving(parse_recipe({**hub, "data": {"source": "org/rows"}})).data.source == "org/rows"


def test_shipped_recipes_leave_as_they_are_but_for_their_folder():
    for name in shipped_recipes():
        try:
            recipe = load_recipe(name)
        except ValueError:  # stages: several recipes
            continue
        changed = {key for key, _, _ in differences(recipe, leaving(recipe))}
        assert not changed, name
        left = json.loads(leaving(recipe).model_dump_json())
        assert left["model"] == json.loads(recipe.model_dump_json())["model"], name


def test_differences_are_named_by_key():
    recipe = parse_recipe(PATHS)
    other = parse_recipe(
        {**PATHS, "aggregator": {"name": "median", "f": 1}, "output_dir": "/elsewhere"}
    )
    found = {key: (here, there) for key, here, there in differences(recipe, other)}
    assert found["aggregator.name"] == ("mean", "median")
    assert found["aggregator.f"] == (0, 1)
    assert "output_dir" not in found
