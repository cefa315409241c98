"""What a recipe would do on a node, told to its owner before the node joins."""

import json

import pytest
from typer.testing import CliRunner

from fedtune.cli import app
from fedtune.nano import model_folder
from fedtune.node import joining
from fedtune.node.budget import Ledger, make_state
from fedtune.node.joining import look_ahead
from fedtune.recipe import load_recipe
from fedtune.training.model_hash import hash_model


@pytest.fixture
def node(tmp_path):
    folder = tmp_path / "node-00"
    folder.mkdir()
    (folder / "node.yaml").write_text("max_local_steps: 50\ndevice: cpu\n")
    return folder


def check(node, *keys):
    return CliRunner().invoke(app, ["node", "check", "three_nodes", str(node), *keys])


def test_an_owner_is_told_model_memory_time_and_traffic(node):
    done = check(node)
    said = " ".join(done.output.split())
    assert done.exit_code == 0, said
    assert "4 rounds of 8 local steps, one of 3 clients" in said
    assert f"sha256:{hash_model(model_folder())}" in said
    assert "python-docs, as the recipe names it" in said
    assert "free on cpu" in said
    assert "a client-round: up to" in said
    assert "all rounds:" in said
    assert "would take part" in said
    # 8 steps of 8 rows of 1024 tokens; 256 rows are evaluated
    assert "max_local_steps: local_steps, 8 of 50" in said
    assert "max_rank: lora.r, 8 of 64" in said
    assert "max_trained_parameters: trained parameters, 78,848 of 200,000,000" in said
    assert "max_order_tokens: tokens to train, 65,536 of 10,000,000" in said
    assert "max_day_orders: orders of the whole run, 7 of 2,000" in said
    assert "max_day_tokens: tokens of the whole run, 786,432 of 1,000,000,000" in said
    assert not (node / "run").exists()


def test_a_run_that_the_day_does_not_hold_is_told_and_a_refill_begins_a_new_day(node):
    make_state(node)
    with Ledger(node).change() as book:
        book.orders = 1994
    done = check(node)
    assert done.exit_code == 1
    assert "max_day_orders: 7 orders of the whole run; 6 are left of this day" in done.output
    done = CliRunner().invoke(app, ["node", "refill", str(node)])
    assert done.exit_code == 0, done.output
    assert "a new day; of the last: 1,994 orders, 0 tokens, 0 s of work" in done.output
    assert check(node).exit_code == 0
    (node / "run" / "budget.json").unlink()
    assert "0 are left of this day" in check(node).output
    done = CliRunner().invoke(app, ["node", "refill", str(node)])
    assert "run/budget.json is gone" in done.output
    assert check(node).exit_code == 0


def test_a_head_that_is_trained_whole_is_told_where_it_is_too_large(node):
    with (node / "node.yaml").open("a") as stream:
        stream.write("max_trained_parameters: 100_000\n")
    assert check(node).exit_code == 0
    done = check(node, "lora.modules_to_save=[lm_head]")
    assert done.exit_code == 1
    assert "of at most 100,000 (max_trained_parameters)" in done.output


def test_nothing_is_refilled_in_a_folder_that_is_no_nodes(tmp_path):
    done = CliRunner().invoke(app, ["node", "refill", str(tmp_path)])
    assert done.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_work_that_takes_longer_than_the_owners_day_is_told(node, monkeypatch):
    monkeypatch.setattr(joining, "matmul_speed", lambda *_: 1e6)
    (problem,) = look_ahead(load_recipe("three_nodes"), node).problems
    assert problem.startswith("max_day_s: the whole run takes")


def test_an_owner_is_told_all_that_the_node_would_refuse(node):
    done = check(node, "federation.local_steps=51", "model.name_or_path=someone/model")
    said = " ".join(done.output.split())
    assert done.exit_code == 1
    assert "local_steps: 51 of at most 50" in said
    assert "'someone/model' is not in allowed_models" in said
    assert "would take part" not in said


def test_an_owner_is_told_what_to_write_to_allow_a_model_that_is_here(node):
    (node / "node.yaml").write_text("allowed_models: []\n")
    done = check(node)
    assert done.exit_code == 1
    entry = f"sha256:{hash_model(model_folder())}"
    assert f"allowed_models would name {entry}" in " ".join(done.output.split())
    (node / "node.yaml").write_text(f"allowed_models: ['{entry}']\n")
    assert check(node).exit_code == 0


def test_the_owners_rows_are_counted_and_judged(node):
    rows = node / "rows.jsonl"
    (node / "node.yaml").write_text("data: rows.jsonl\n")
    rows.write_text("".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(7)))
    found = look_ahead(load_recipe("three_nodes"), node)
    assert (found.may_join, found.rows) == (True, 7)
    rows.write_text('{"price": 3}\n')
    (problem,) = look_ahead(load_recipe("three_nodes"), node).problems
    assert problem.startswith("data:")
    rows.unlink()
    assert not look_ahead(load_recipe("three_nodes"), node).may_join


def test_a_machine_that_is_too_small_is_told_so(node, monkeypatch):
    monkeypatch.setattr(joining, "free_memory", lambda device: 1000)
    (problem,) = look_ahead(load_recipe("three_nodes"), node).problems
    assert problem.startswith("memory: training needs about")


def test_a_device_that_is_not_there_is_told(node, monkeypatch):
    def absent(*_):
        raise AssertionError("Torch not compiled with CUDA enabled")

    monkeypatch.setattr(joining, "free_memory", absent)
    (problem,) = look_ahead(load_recipe("three_nodes"), node).problems
    assert problem == "device: cpu does not answer: Torch not compiled with CUDA enabled"


def test_a_folder_that_is_no_node_is_an_error(tmp_path):
    done = check(tmp_path)
    assert done.exit_code == 2
    assert "node.yaml" in done.output
