"""What a recipe would do on a node, told to its owner before the node joins."""

import json

import pytest
from typer.testing import CliRunner

from fedtune.cli import app
from fedtune.federation.link import joining
from fedtune.federation.link.joining import look_ahead
from fedtune.nano import model_folder
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
    assert "4 rounds of 8 steps, one of 3 clients" in said
    assert f"sha256:{hash_model(model_folder())}" in said
    assert "python-docs, as the recipe names it" in said
    assert "free on cpu" in said
    assert "a client-round: up to" in said
    assert "all rounds:" in said
    assert "would take part" in said


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
