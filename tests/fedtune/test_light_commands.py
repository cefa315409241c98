"""Commands that train nothing load nothing to train with; each in a process of its own."""

import json
import os
import subprocess
import sys

import pytest

from fedtune.recipe import load_recipe
from fedtune.records.folder import RunFolder

HEAVY = ("torch._C", "transformers", "peft", "trl", "datasets", "flwr")
LOADED = """
import json, sys
from fedtune.cli import app
try:
    app(sys.argv[1:])
except SystemExit as end:
    assert (end.code or 0) == {ends}, end.code
print("\\n" + json.dumps([name for name in {heavy} if name in sys.modules]))
"""


def loaded_by(*words, ends=0, env=None):
    """Which of the heavy modules a command loads, by what is in `sys.modules` when it ends.

    torch counts by `torch._C`: a module that waits for its first use has no code of it.
    """
    code = LOADED.format(heavy=HEAVY, ends=ends)
    shown = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=300, env=env
    )
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("list",),
        ("list", "--long"),
        ("schema",),
        ("explain",),
        ("explain", "evaluation.max_rows"),
        ("explain", "train.beta"),
    ],
    ids=" ".join,
)
def test_a_command_that_looks_loads_no_torch(words):
    assert loaded_by(*words) == []


def test_status_loads_no_torch(tmp_path):
    folder, _ = RunFolder.create(load_recipe("quickstart", [f"output_dir={tmp_path / 'run'}"]))
    measured = {"round": 0, "eval": {"loss": 2.5}, "seconds": 1.0}
    folder.metrics.write_text(json.dumps(measured) + "\n", encoding="utf-8")
    assert loaded_by("status", str(folder.path), ends=1) == []  # no process works on it: stopped


def test_a_quick_check_loads_nothing_to_train_with():
    assert loaded_by("check", "quickstart", "--quick") == []
    assert loaded_by("check", "pipeline_nano", "--quick") == []


@pytest.mark.slow
def test_a_check_tries_once_and_remembers(tmp_path):
    env = {**os.environ, "FEDTUNE_CACHE": str(tmp_path)}
    assert "trl" in loaded_by("check", "quickstart", env=env)
    assert loaded_by("check", "quickstart", env=env) == []
    assert "trl" in loaded_by("check", "quickstart", "lora.r=4", env=env)


def test_torch_that_waits_is_whole_at_its_first_use():
    code = """
import sys
from fedtune.cli.lazy_torch import load_torch_when_used
load_torch_when_used()
import torch
assert "torch._C" not in sys.modules
import torch.nn.functional as F
assert type(torch).__name__ == "module" and F.relu(torch.tensor([-1.0])).item() == 0.0
import aggregators
rows = torch.tensor([[1.0], [2.0], [3.0], [1e8]])
print(float(aggregators.aggregate(rows, "trimmed_mean", f=1)))
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.stdout == "2.5\n", shown.stderr
