"""A run goes on with what it began with, or not at all: other inputs would give other bits.

Not proven here: what a kill leaves (test_resume_after_kill).
"""

import json
import shutil

import pytest

from fedtune.records.events import RunStoppedError
from fedtune.records.folder import RunFolder
from fedtune.runs.engines import execute
from fedtune.training import process
from fedtune.training.base import hash_weights


@pytest.fixture
def began(tiny_recipe, tiny_model_folder, small_data, tmp_path):
    """A finished run of one round, on a model and data of its own."""
    model, data = tmp_path / "model", tmp_path / "rows.jsonl"
    shutil.copytree(tiny_model_folder("llama"), model)
    shutil.copy(small_data("jsonl"), data)
    folder, recipe = RunFolder.create(
        tiny_recipe(
            model={"name_or_path": str(model)},
            data={"source": str(data)},
            federation={"num_rounds": 1},
        )
    )
    execute(recipe, folder)
    return folder, model, data


def resume(folder):
    """As another process would: what this one has loaded is forgotten."""
    process.drop_workers()
    hash_weights.cache_clear()
    opened, recipe = RunFolder.open(folder.path)
    execute(recipe, opened)


def test_the_same_inputs_go_on(began):
    folder, _, _ = began
    before = (folder.adapter / "adapter_model.safetensors").read_bytes()
    resume(folder)
    assert (folder.adapter / "adapter_model.safetensors").read_bytes() == before


def test_another_recipe_is_refused(began):
    folder, _, _ = began
    text = folder.recipe.read_text()
    assert "learning_rate: 0.01" in text
    folder.recipe.write_text(text.replace("learning_rate: 0.01", "learning_rate: 0.02"))
    with pytest.raises(RunStoppedError, match="the recipe is no longer the one"):
        resume(folder)


def test_other_rows_are_refused(began):
    folder, _, data = began
    lines = data.read_text().splitlines()
    row = json.loads(lines[0]) | {"completion": "something else"}
    data.write_text("\n".join([json.dumps(row), *lines[1:]]) + "\n")
    with pytest.raises(RunStoppedError, match="the data is no longer the one"):
        resume(folder)


def test_another_base_is_refused(began, tiny_model_folder):
    folder, model, _ = began
    shutil.copy(tiny_model_folder("llama", seed=1) / "model.safetensors", model)
    with pytest.raises(RunStoppedError, match="the base is no longer the one"):
        resume(folder)
