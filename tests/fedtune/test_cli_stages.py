"""A recipe in stages from the command line: run, stop, resume, check, and the folders of stages."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from typer.testing import CliRunner

from fedtune.cli import app

runner = CliRunner()


def invoke(*args):
    result = runner.invoke(app, [str(arg) for arg in args], env={"COLUMNS": "120"})
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def recipe(tiny_model_folder, tmp_path):
    """The path of sft, then dpo from what it ends with, for 2 clients and a round each."""
    pair = {"completion": "3", "chosen": "3", "rejected": "4"}
    rows = [{"prompt": f"add {i % 3} {i % 2}: ", **pair} for i in range(40)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    raw = {
        "model": {"name_or_path": str(tiny_model_folder("llama")), "device": "cpu"},
        "lora": {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]},
        "data": {"source": str(data), "partition": {"min_rows": 4}},
        "train": {"per_device_train_batch_size": 2, "gradient_checkpointing": False},
        "federation": {"num_clients": 2, "num_rounds": 1, "local_steps": 1},
        "aggregator": {"name": "mean"},
        "evaluation": {"samples": 1, "max_new_tokens": 4, "max_rows": 4},
        "stages": [{"name": "sft", "task": "sft"}, {"name": "dpo", "task": "dpo"}],
        "output_dir": str(tmp_path / "run"),
    }
    path = tmp_path / "stages.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def test_run_ends_in_a_line_for_each_stage_and_says_where_the_adapter_lies(recipe, tmp_path):
    folder = tmp_path / "run"
    result = invoke("run", recipe)
    assert result.exit_code == 0, result.output
    assert "stage 1 of 2, sft: sft" in result.output
    table = result.output[result.output.index("before") :]
    before, after = (
        json.loads(line)["eval"]["loss"]
        for line in (folder / "sft" / "metrics.jsonl").read_text().splitlines()
    )
    assert f"{before:.3f}" in table
    assert f"{after:.3f}" in table
    assert "preference" in table
    assert f"adapter   {folder}/dpo/adapter" in table
    for name in ("sft", "dpo"):
        assert {"curves.svg", "report.html", "adapter"} <= {
            path.name for path in (folder / name).iterdir()
        }
    again = invoke("run", "--resume", folder)  # all done: the table, and nothing is run
    assert again.exit_code == 0
    assert "stage 1 of 2" not in again.output
    assert f"adapter   {folder}/dpo/adapter" in again.output
    assert invoke("evaluate", folder / "dpo").exit_code == 0
    assert invoke("report", folder / "sft").exit_code == 0
    assert invoke("merge", folder / "dpo", tmp_path / "merged").exit_code == 0
    told = invoke("evaluate", folder)
    assert told.exit_code == 2
    assert "it is of several stages: name the folder of one" in told.output.replace("\n", " ")
    told = invoke("report", folder)
    assert told.exit_code == 0
    assert told.output.count("report.html") == 2  # a page for each stage


def test_check_judges_all_stages_and_prints_what_loads_back(recipe, tmp_path):
    result = invoke("check", recipe, "stages.dpo.federation.num_rounds=3")
    assert result.exit_code == 0, result.output
    assert "the mean withstands no attacker" in result.output
    printed = tmp_path / "printed.yaml"
    printed.write_text(result.stdout)
    again = invoke("check", printed)
    assert again.stdout == result.stdout
    stages = yaml.safe_load(again.stdout)["stages"]
    assert [stage["federation"]["num_rounds"] for stage in stages] == [1, 3]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("stages.dpo.train.bta=1", "stages.dpo: train.bta: unknown to TRL; did you mean 'beta'?"),
        ("stages.dpo.from=stf", "stages.dpo: from: no earlier stage 'stf'; did you mean 'sft'?"),
        ("stages.dop.from=sft", "no stage 'dop'; did you mean 'dpo'?"),
        ("federation.num_round=1", "error federation.num_round: unknown key; did you mean"),
    ],
)
@pytest.mark.parametrize("command", ["check", "run"])
def test_what_is_wrong_is_told_before_any_stage_runs(recipe, tmp_path, command, override, told):
    result = invoke(command, recipe, override)
    assert result.exit_code == 2
    assert told in result.output
    assert not (tmp_path / "run").exists()


def test_a_stage_that_stops_is_named_with_the_command_to_go_on(recipe, tmp_path):
    result = invoke("run", recipe, "stages.dpo.attack={name: nan, num_attackers: 2}")
    assert result.exit_code == 1
    assert "the stages stopped: stage dpo: round 1 got too few good replies" in result.output
    assert f"fedtune run --resume {tmp_path / 'run'}" in result.output.replace("\n", "")


@pytest.mark.slow
def test_sigterm_in_a_stage_loses_nothing(recipe, tmp_path):
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "fedtune.cli", "run", str(recipe),
         "stages.dpo.federation.num_rounds=500"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ),
    )  # fmt: skip
    metrics = folder / "dpo" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 3):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Traceback" not in shown
    assert f"fedtune run --resume {folder}" in shown.replace("\n", "")
    assert json.loads((folder / "stages.json").read_text())["stages"] == {
        "sft": "done", "dpo": "to do",
    }  # fmt: skip
    assert list((folder / "dpo" / "checkpoints").glob("round-*"))
