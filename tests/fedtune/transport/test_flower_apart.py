"""A run in one process needs no Flower: nothing of it is imported."""

import subprocess
import sys

import pytest

LOCAL_RUN = """
import sys
from fedtune.recipe import load_recipe
from fedtune.records.folder import RunFolder
from fedtune.runs.engines import execute

folder, recipe = RunFolder.create(load_recipe(sys.argv[1]))
execute(recipe, folder)
assert [each["round"] for each in folder.read_metrics()] == [0, 1]
found = {name for name in sys.modules if name.partition(".")[0] in {"flwr", "ray", "grpc"}}
assert not found, sorted(found)[:9]
assert "torch" in sys.modules
"""


@pytest.mark.slow
def test_a_local_run_with_attackers_and_votes_imports_no_flower(tiny_recipe, tmp_path):
    recipe = tiny_recipe(
        federation={"num_rounds": 1, "local_steps": 1, "commit_then_reveal": True},
        aggregator={"name": "median", "f": 1},
        attack={"name": "sign_flip", "num_attackers": 1},
        defence={"vote": True},
        evaluation={"per_client": True},
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.model_dump_json(exclude_defaults=True))
    done = subprocess.run(
        [sys.executable, "-c", LOCAL_RUN, path], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
