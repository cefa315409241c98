"""`fedtune status` and `fedtune dash` on a real run: at work, killed, resumed, finished.

What is printed is tested in tests/fedtune/report, the page's server there too.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

from fedtune.cli import app

runner = CliRunner()


def invoke(*args):
    result = runner.invoke(app, [str(arg) for arg in args], env={"COLUMNS": "200"})
    assert "Traceback" not in result.output
    return result


@contextmanager
def command(*words, **options):
    process = subprocess.Popen(
        [sys.executable, "-m", "fedtune.cli", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"}, **options,
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process, reached, seconds=240):
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


@pytest.fixture
def tiny(tiny_model_folder, small_data, tmp_path):
    return [
        f"model.name_or_path={tiny_model_folder('qwen3')}",
        f"data.source={small_data('jsonl')}",
        "data.partition={by: iid, min_rows: 2}",
        "federation.num_clients=5",
        "federation.num_rounds=12",
        "federation.local_steps=2",
        "train.per_device_train_batch_size=2",
        "aggregator.f=1",
        "attack={name: nan, num_attackers: 1}",
        "evaluation={samples: 1, per_client: false}",
        f"output_dir={tmp_path / 'run'}",
    ]


def told(folder):
    result = invoke("status", folder, "--json")
    return result.exit_code, json.loads(result.stdout)


def records_of(folder):
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.slow
def test_a_run_is_followed_from_work_to_kill_to_end(tiny, tmp_path):
    folder = tmp_path / "run"
    with command("run", "quickstart", *tiny) as process:
        wait_for(process, lambda: len(records_of(folder)) >= 3)
        os.kill(process.pid, signal.SIGSTOP)  # so that it stands still while it is looked at
        code, seen = told(folder)
        assert (code, seen["state"]) == (0, "running")
        assert seen["rounds_done"] == len(records_of(folder)) - 1
        assert seen["elapsed_s"] > 0
        process.kill()
        process.wait()
    code, seen = told(folder)
    records = records_of(folder)
    assert (code, seen["state"]) == (1, "stopped")
    assert seen["next"] == [f"fedtune run --resume {folder}"]
    assert seen["losses"] == [[line["round"], line["eval"]["loss"]] for line in records]
    assert seen["eval"]["now"] == records[-1]["eval"]
    (liar,) = {client for line in records[1:] for client in line["refused"]}
    clients = {str(one["client"]): one for one in seen["clients"]}
    assert clients[liar]["refused"] >= len(records) - 1
    assert clients[liar]["dropped_rounds"] == records[-1]["dropped_rounds"][liar]
    assert {one["asked_rounds"] for one in clients.values()} == {records[-1]["round"]}
    _, *resume = seen["next"][0].split()
    with command(*resume) as process:
        shown, _ = process.communicate(timeout=400)
        assert process.returncode == 0, shown
    code, seen = told(folder)
    records = records_of(folder)
    assert (code, seen["state"], seen["rounds_done"]) == (0, "finished", 12)
    assert seen["upload_bytes"] == sum(line.get("upload_bytes", 0) for line in records)
    assert seen["download_bytes"] == sum(line.get("download_bytes", 0) for line in records)
    page = invoke("status", folder)
    assert page.exit_code == 0
    assert f"{records[0]['eval']['loss']:.3f} to {records[-1]['eval']['loss']:.3f}" in page.output


def made_up(path):
    """A run's folder without a run: enough of a recipe, and one record."""
    path.mkdir(parents=True)
    (path / "recipe.yaml").write_text("federation: {num_clients: 2, num_rounds: 3}\ntask: sft\n")
    (path / "metrics.jsonl").write_text('{"round": 0, "eval": {"loss": 6.0}}\n')
    return path


def test_without_a_folder_the_newest_under_runs_is_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    none = invoke("status")
    assert none.exit_code == 2
    assert "runs/ holds no run here" in none.output
    assert invoke("dash").exit_code == 2
    made_up(tmp_path / "runs" / "mine")
    shown = invoke("status")
    assert shown.exit_code == 1
    assert shown.output.splitlines()[0] == "mine  stopped"
    assert "fedtune run --resume runs/mine" in shown.output


@pytest.mark.parametrize("name", ["status", "dash"])
def test_no_run_is_refused(tmp_path, name):
    shown = invoke(name, tmp_path / "gone")
    assert shown.exit_code == 2
    assert "holds no run: there is no such folder" in shown.output


def test_a_damaged_folder_is_refused_without_its_control_codes(tmp_path):
    folder = made_up(tmp_path / "run")
    (folder / "recipe.yaml").write_text('a: "\\u001b[2J" \x1b[2J: [bold]x[/bold]\n')
    shown = invoke("status", folder)
    assert shown.exit_code == 2
    assert "error" in shown.output
    assert "\x1b" not in shown.output


def test_the_page_is_served_until_ctrl_c(tmp_path):
    folder = made_up(tmp_path / "run")
    with command("dash", folder, "--port", 0) as process:
        url = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url), url
        with urllib.request.urlopen(f"{url}data.json", timeout=30) as answer:
            assert json.load(answer)["curve"] == [[0, 6.0]]
        taken = invoke("dash", folder, "--port", url.rstrip("/").rpartition(":")[2])
        assert taken.exit_code == 2
        assert "needs a free port" in taken.output
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
        assert (rest, process.returncode) == ("", 0)


def test_who_serves_to_others_is_warned(tmp_path):
    folder = made_up(tmp_path / "run")
    with command("dash", folder, "--port", 0, "--host", "0.0.0.0") as process:
        assert "whoever reaches this address reads along" in process.stdout.readline()
        assert process.stdout.readline().startswith("http://0.0.0.0:")


def test_an_address_of_another_machine_is_refused(tmp_path):
    shown = invoke("dash", made_up(tmp_path / "run"), "--host", "192.0.2.1", "--port", 0)
    assert shown.exit_code == 2
    assert "needs a free port on an address of this machine" in shown.output
