"""The command line as a user meets it: real runs of tiny models, and every wrong input.

Not proven here: how the live view looks (tests/fedtune/report), nor runs of minutes.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from typer.testing import CliRunner

from fedtune.cli import app
from fedtune.recipe import load_recipe

runner = CliRunner()


def invoke(*args):
    result = runner.invoke(app, [str(arg) for arg in args], env={"COLUMNS": "200"})
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def tiny(tiny_model_folder, small_data, tmp_path):
    """Overrides that make any recipe a run of a second."""
    return [
        f"model.name_or_path={tiny_model_folder('qwen3')}",
        f"data.source={small_data('jsonl')}",
        "data.partition={by: iid, min_rows: 2}",
        "federation.num_clients=5",
        "federation.num_rounds=2",
        "federation.local_steps=2",
        "train.per_device_train_batch_size=2",
        "aggregator.f=1",
        "attack.num_attackers=1",
        "evaluation.samples=1",
        f"output_dir={tmp_path / 'run'}",
    ]


def test_version_is_the_packages():
    import fedtune

    assert invoke("--version").output.strip() == fedtune.__version__


def test_check_prints_a_recipe_that_loads_back(tmp_path):
    result = invoke("check", "quickstart", "federation.num_rounds=3")
    assert result.exit_code == 0
    printed = tmp_path / "resolved.yaml"
    printed.write_text(result.stdout)
    assert load_recipe(str(printed)) == load_recipe("quickstart", ["federation.num_rounds=3"])


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("federation.num_round=3", "did you mean 'num_rounds'"),
        ("aggregator.name=krun", "did you mean 'krum'"),
        ("aggregator.mixing=[nmm]", "did you mean 'nnm'"),
        ("aggregator.f=5", "needs n >= 2f + 1"),
        ("aggregator.f=-1", "greater than or equal to 0"),
        ("attack.name=sign_flop", "did you mean 'sign_flip'"),
        ("attack.scal=2", "scale"),
        ("attack={name: alie, num_attackers: 2, zz: 1}", "z"),
        ("train.learning_rat=1", "did you mean 'learning_rate'"),
        ("train.learning_rate=fast", "train"),
        ("train.max_steps=3", "federation.local_steps"),
        ("train.per_device_train_batch_size=0", "per_device_train_batch_size: must be at least 1"),
        ("lora.target_modules=[q_proj, qq_proj]", "no module 'qq_proj'; did you mean 'q_proj'"),
        ("lora.target_modules=q_proj", "write [q_proj] to name a module"),
        ("lora.target_modules='('", "no regular expression"),
        ("lora.modules_to_save=[score]", "no module 'score'"),
        ("train.lr_scheduler_type=reduce_lr_on_plateau", "function of the step"),
        ("model.name_or_path=./no-such-folder", "no-such-folder"),
        ("model.device=cuda", "is not there"),
        ("data.source=./no-such-file.jsonl", "no file"),
        ("data.partition.column=modul", "no column 'modul'"),
        ("data.partition.min_rows=2000", "needs at least 2000 rows"),
        ("output_dir=/dev/null", "is a file"),
        ("output_dir=/proc/fedtune", "cannot be written to"),
        ("report_to=[wandb]", "not installed"),
        ("federation.num_rounds", "section.key=value"),
    ],
)
def test_check_refuses_in_one_screen(override, told):
    if "cuda" in override and torch.cuda.is_available():
        override = override.replace("cuda", "mps")
    result = invoke("check", "quickstart", override)
    assert result.exit_code == 2
    assert told in result.output
    assert len(result.output.splitlines()) < 12


def test_check_tells_how_often_a_sample_holds_too_many_liars():
    # 3 liars of 10, 5 asked, f = 1: P(X > 1) = (C(3,2) C(7,3) + C(3,3) C(7,2)) / C(10,5)
    #   = (3 * 35 + 1 * 21) / 252 = 0.5
    result = invoke(
        "check", "quickstart", "federation.clients_per_round=5", "aggregator.f=1",
        "attack.num_attackers=3",
    )  # fmt: skip
    assert result.exit_code == 0
    assert "more than f=1 of them in 50.0% of rounds" in " ".join(result.output.split())


def test_a_missing_recipe_names_the_nearest():
    assert "did you mean 'quickstart'" in invoke("run", "quickstrt").output


def test_list_long_prints_what_each_rule_says_of_itself():
    shown = " ".join(invoke("list", "aggregators", "--long").output.split())
    for words in ("n >= 4f + 3", "kappa", "cost", "reading", "https://arxiv.org/abs/1703.02757"):
        assert words in shown
    assert "nnm" in invoke("list", "mixings", "--long").output
    shown = " ".join(invoke("list", "attacks", "--long").output.split())
    for words in ("of all attackers", "tries crafted updates", "columns are A and B", "seeded"):
        assert words in shown
    refused = invoke("list", "tasks", "--long")
    assert refused.exit_code != 0
    assert "--long is of aggregators, mixings, attacks" in refused.output


def test_list_names_everything():
    from aggregators import AGGREGATORS, MIXINGS
    from attacks import ATTACKS

    shown = invoke("list").output
    for name in (*AGGREGATORS, *MIXINGS, *ATTACKS, "sft", "quickstart"):
        assert name in shown
    assert "multi_krum" not in invoke("list", "attacks").output


def test_run_evaluate_and_merge(tiny, tmp_path):
    folder = tmp_path / "run"
    result = invoke("run", "quickstart", *tiny)
    assert result.exit_code == 0, result.output
    for name in ("recipe.yaml", "manifest.json", "metrics.jsonl", "samples.jsonl", "curves.svg"):
        assert (folder / name).is_file()
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["round"] for record in records] == [0, 1, 2]
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["federation"]["num_clients"] == 5

    last = records[-1]["eval"]["loss"]
    for path in (folder, folder / "adapter"):
        measured = invoke("evaluate", path)
        assert measured.exit_code == 0, measured.output
        assert f"{last:.6f}" in measured.output
        assert f"{records[0]['eval']['loss']:.6f}" in measured.output
    for figures in records[-1]["client_eval"].values():
        assert f"{figures['loss']:.6f}" in measured.output

    merged = invoke("merge", folder, tmp_path / "merged")
    assert merged.exit_code == 0, merged.output
    check_merged_equals_adapter(folder, tmp_path / "merged")
    assert "not empty" in invoke("merge", folder, tmp_path / "merged").output

    again = invoke("run", "quickstart", *tiny)  # a second run leaves the first alone
    assert "stays as it is" in again.output
    assert (tmp_path / "run-2" / "adapter").is_dir()
    first, second = (
        (tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes()
        for name in ("run", "run-2")
    )
    assert first == second

    resumed = invoke("run", "--resume", folder)  # nothing is left to do
    assert resumed.exit_code == 0
    check_cut_metrics_are_mended(folder, records)
    assert (folder / "adapter" / "adapter_model.safetensors").read_bytes() == first


def check_cut_metrics_are_mended(folder, records):
    """A half line is dropped, and its round measured again; so it is with the whole file gone."""
    metrics = folder / "metrics.jsonl"
    for damaged in (metrics.read_bytes()[:-40], b""):
        metrics.write_bytes(damaged)
        resumed = invoke("run", "--resume", folder)
        assert resumed.exit_code == 0
        assert "none yet" not in resumed.output
        mended = [json.loads(line) for line in metrics.read_text().splitlines()]
        assert mended[0]["eval"] == records[0]["eval"]
        assert mended[-1]["round"] == records[-1]["round"]
        assert mended[-1]["eval"] == records[-1]["eval"]


def check_merged_equals_adapter(folder, merged):
    """Plain PEFT and plain transformers, nothing of ours."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    name = base["base_model_name_or_path"]
    adapted = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32), folder / "adapter"
    )
    plain = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    ids = torch.tensor([AutoTokenizer.from_pretrained(merged)("add 3 4: ").input_ids])
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, adapted(ids).logits, rtol=1e-4, atol=1e-5)
        bare = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)(ids).logits
    assert not torch.allclose(plain(ids).logits, bare, atol=1e-5)


def test_another_architecture_and_a_foreign_file(tiny_model_folder, small_data, tmp_path):
    result = invoke(
        "run", "quickstart",
        f"model.name_or_path={tiny_model_folder('gpt2')}",
        f"data.source={small_data('jsonl', 'messages')}",
        "data.partition={by: natural_id, column: topic, min_rows: 4}",
        "federation.num_clients=5", "federation.num_rounds=1", "federation.local_steps=1",
        "aggregator.f=1", "attack.num_attackers=1", f"output_dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "adapter" / "adapter_config.json").is_file()


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("run",), "needs a RECIPE or --resume"),
        (("run", "quickstart", "--resume", "somewhere"), "give no RECIPE"),
        (("run", "--resume", "no-such-run"), "holds no run"),
        (("evaluate", "no-such-run"), "holds no adapter"),
        (("merge", "no-such-run", "out"), "holds no adapter"),
    ],
)
def test_wrong_paths_are_named(args, told):
    result = invoke(*args)
    assert result.exit_code == 2
    assert told in result.output


def test_odd_line_ends_in_the_data_do_not_end_the_report(tiny, tmp_path):
    # U+2028 and U+0085 end a line for str.splitlines, and stand in a JSON string as they are.
    rows = [{"prompt": f"add {i}: ", "completion": f"{i}\u2028\u0085{i}"} for i in range(64)]
    data = tmp_path / "odd.jsonl"
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    result = invoke("run", "quickstart", *tiny, f"data.source={data}", "federation.num_rounds=1")
    assert result.exit_code == 0, result.output
    assert "adapter" in result.output


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.slow, id="ray")])
def test_ctrl_c_and_sigterm_lose_nothing(tiny, tmp_path, engine, number):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "fedtune.cli", "run", "quickstart", *tiny]
    command += ["federation.num_rounds=500", f"federation.engine={engine}"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ)
    )
    metrics = folder / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 3):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(number)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in shown
    assert "fedtune run --resume" in shown
    assert list((folder / "checkpoints").glob("round-*"))
