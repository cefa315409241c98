"""What a forger leaves out of a record, says in other types, or changes beside it.

Most of it is what a server says from the first round on: its hashes follow, and its nodes' logs
have them (`lied_from_the_start`). What is changed afterwards: test_forged_records.py.
"""

import hashlib
import json
import os
from shutil import copytree

import pytest
import torch
from recorded_runs import forge, lines_of, record
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from fedtune.cli import app
from fedtune.deployment.folder import DeploymentFolder
from fedtune.messages.wire import hash_row
from fedtune.node.sent_log import SENT
from fedtune.recipe import Model
from fedtune.records.folder import RunFolder
from fedtune.round.screening.kept_replies import KEPT, KeptReplies
from fedtune.trust.adapter_config import _is_base

_made = {}
WEIGHTS = "adapter_model.safetensors"
RULE = {"name": "mean", "geometry": "factors"}
KEEP = {"keep_replies": True}


@pytest.fixture
def case(tiny_recipe, tmp_path, tmp_path_factory):
    """A copy of one run of four nodes whose replies were kept, and of their deployment."""
    if not _made:
        root = tmp_path_factory.mktemp("case")
        deployment = DeploymentFolder.create(root / "fed", 4, "127.0.0.1", 9443)
        recipe = tiny_recipe(aggregator=RULE, federation=KEEP, output_dir=str(root / "run"))
        record(recipe, deployment)
        _made["root"] = root
    copytree(_made["root"], tmp_path / "case")
    return RunFolder(tmp_path / "case/run"), DeploymentFolder.open(tmp_path / "case/fed")


def verify(case, *words, node=1):
    folder, deployment = case
    words = (*words, "--node", str(deployment.node_folders[node]))
    done = CliRunner().invoke(app, ["verify", str(folder.path), *words])
    return done.exit_code, " ".join(done.output.split())


def lied_from_the_start(case, lines=None, manifest=None):
    """The record of a server that lied in each line as it wrote it: nodes were shown these."""
    folder, deployment = case
    forge(folder, deployment, lines, manifest)
    heads = [hashlib.sha256(line).hexdigest() for line in folder.written_lines()]
    for node in deployment.node_folders:
        said = [json.loads(line) for line in (node / SENT).read_text().splitlines()]
        for each in said:
            each["manifest"] = folder.manifest_hash()
            each["record"] = heads[each["round"] - 1]
        (node / SENT).write_text("".join(json.dumps(each) + "\n" for each in said))


def test_the_true_folder_passes(case):
    lied_from_the_start(case)
    code, said = verify(case, "--recompute", "--deployment", str(case[1].path))
    assert code == 0, said
    assert "adapter: the one in which the record ends" in said


@pytest.mark.parametrize("key", ["next_anchor", "anchor", "f", "sampled"])
def test_a_line_that_leaves_something_out_is_found(case, key):
    lines = lines_of(case[0])
    for line in lines[1:] if key != "next_anchor" else lines[-1:]:
        line.pop(key)
    lied_from_the_start(case, lines)
    code, said = verify(case)
    assert code == 1, said
    if key != "sampled":
        assert f"round 3: it does not say {key}" in said


def test_another_adapter_under_a_last_line_that_names_none_is_found(case):
    path = case[0].adapter / WEIGHTS
    save_file({name: each + 1 for name, each in load_file(path).items()}, path)
    lines = lines_of(case[0])
    del lines[-1]["next_anchor"]
    lied_from_the_start(case, lines)
    assert verify(case)[0] == 1


@pytest.mark.parametrize("key", ["weight", "reply"])
def test_a_client_of_which_nothing_is_said_is_found(case, key):
    lines = lines_of(case[0])
    for line in lines[1:]:
        del line["clients"]["2"][key]
    lied_from_the_start(case, lines)
    code, said = verify(case)
    assert code == 1, said
    assert f"round 1: it does not say {key} of client 2" in said


@pytest.mark.parametrize(
    ("key", "value"),
    [("round", "3"), ("round", 3.0), ("round", True), ("f", "0"), ("sampled", ["0", 1, 2, 3.0])],
)
def test_a_number_in_another_type_is_no_line(case, key, value):
    lines = lines_of(case[0])
    lines[-1][key] = value
    lied_from_the_start(case, lines)
    code, said = verify(case)
    assert code == 1, said
    assert "line 4 of metrics.jsonl is no line of a record" in said


def test_a_weight_as_text_is_no_line(case):
    lines = lines_of(case[0])
    for facts in lines[2]["clients"].values():
        facts["weight"] = str(facts["weight"])
    lied_from_the_start(case, lines)
    assert "line 3 of metrics.jsonl is no line of a record" in verify(case)[1]


def test_a_reply_that_is_counted_for_two_is_found(case):
    folder = case[0]
    lines = lines_of(folder)
    for line in lines[1:]:
        line["clients"]["3"]["reply"] = line["clients"]["1"]["reply"]
        kept = folder.path / KEPT / f"round-{line['round']:04d}"
        (kept / "client-000003.reply").write_bytes((kept / "client-000001.reply").read_bytes())
    lied_from_the_start(case, lines)
    code, said = verify(case)
    assert code == 1, said
    assert "round 1: this node's reply is counted as client 3's too" in said


def test_keys_that_are_left_out_of_the_manifest_are_found(case):
    # Else two clients could be swapped in every round, and each would be told the other's number.
    lines = lines_of(case[0])
    for line in lines[1:]:
        clients = line["clients"]
        clients["1"], clients["2"] = clients["2"], clients["1"]
    lied_from_the_start(case, lines, lambda facts: facts.update(node_keys=[]))
    code, said = verify(case)
    assert code == 1, said
    assert "the record does not name this node's key" in said


def test_a_key_that_stands_for_several_clients_is_found(case):
    one = lambda facts: facts.update(node_keys=facts["node_keys"][1:2] * 4)  # noqa: E731
    lied_from_the_start(case, None, one)
    code, said = verify(case)
    assert code == 1, said
    assert "manifest.json names one key for several clients" in said


def test_who_has_proven_faulty_was_refused(case, tiny_recipe, tmp_path):
    deployment = DeploymentFolder.create(tmp_path / "other", 4, "127.0.0.1", 9443)
    recipe = tiny_recipe(
        aggregator={"name": "median", "f": 1, "geometry": "factors"},
        federation={"num_clients": 4, "num_rounds": 1},
        output_dir=str(tmp_path / "median"),
    )
    other = record(recipe, deployment), deployment
    lines = lines_of(other[0])
    lines[1]["proven_faulty"] = [2]
    lied_from_the_start(other, lines)
    code, said = verify(other)
    assert code == 1, said
    assert "round 1: client 2 has proven faulty, and is not refused" in said


CONFIG = "adapter_config.json"


def edit_config(folder, **changes):
    path = folder.adapter / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_alpha": 4000},
        {"use_rslora": True},
        {"r": 64},
        {"alpha_pattern": {".*q_proj": 4000}},
        {"rank_pattern": {".*q_proj": 1}},
        {"target_modules": ["q_proj", "v_proj", "o_proj"]},
        {"target_modules": ".*"},
        {"auto_mapping": {"parent_library": "antigravity", "base_model_class": "x"}},
        {"use_dora": True},
        {"peft_type": "IA3"},
        {"modules_to_save": ["lm_head"]},
        {"some_key_of_another_version": 3},
        {"base_model_name_or_path": "someone/llama0"},
        {"base_model_name_or_path": "/home/me/another"},
        {"base_model_name_or_path": None},
        {"revision": "refs/pr/1"},
    ],
    ids=str,
)
def test_an_adapters_configuration_that_is_not_the_recipes_is_found(case, changes):
    edit_config(case[0], **changes)
    code, said = verify(case)
    assert code == 1, said
    assert f"{CONFIG}: {next(iter(changes))} is not what the recipe says" in said


def test_a_base_is_known_by_its_name_wherever_it_lies():
    hub = "/home/me/.cache/huggingface/hub/models--owner--m/snapshots"
    commit = "0123456789" * 4
    for name, base, same in (
        ("nano", "/opt/env/site-packages/fedtune/nano/model", True),
        ("nano", "C:\\env\\fedtune\\nano\\model", True),
        ("nano", "nano/model", False),  # a name of the hub's
        ("nano", "/opt/model", False),
        ("/data/llama", "/srv/llama", True),
        ("/data/llama", "llama", False),
        ("/data/llama", "/srv/llama2", False),
        ("owner/m", "owner/m", True),
        ("owner/m", f"{hub}/{commit}", True),
        ("owner/m", f"{hub}/main/{commit}", False),
        ("owner/m", f"/x/models--owner--other/snapshots/{commit}", False),
        ("owner/m", "/tmp/m", False),
    ):
        assert _is_base(base, Model(name_or_path=name)) is same, (name, base)
    one = Model(name_or_path="owner/m", revision=commit)
    assert _is_base(f"{hub}/{commit}", one)
    assert not _is_base(f"{hub}/{'f' * 40}", one)


def test_an_adapter_without_a_readable_configuration_is_found(case):
    path = case[0].adapter / CONFIG
    for text in ("", "[]", "{" * 5000):
        path.write_text(text)
        assert f"{CONFIG} is none" in verify(case)[1]
    path.unlink()
    assert f"{CONFIG} is none" in verify(case)[1]


def test_weights_in_another_file_of_the_adapter_are_found(case):
    adapter = case[0].adapter
    torch.save(load_file(adapter / WEIGHTS), adapter / "adapter_model.bin")
    assert "adapter_model.bin is no part of a run's adapter" in verify(case)[1]
    (adapter / WEIGHTS).unlink()  # what PEFT would then load
    code, said = verify(case)
    assert code == 1
    assert "adapter_model.bin is no part of a run's adapter" in said


def test_an_anchor_that_is_no_number_is_not_near_any(case):
    # On another machine an anchor may be off by a little: nothing is little beside infinity.
    folder = case[0]
    row, layout = KeptReplies(folder.path / KEPT).anchor(3)
    for value in (float("nan"), float("inf")):
        row[0] = value
        KeptReplies(folder.path / KEPT).put_anchor(3, row, layout)
        lines = lines_of(folder)
        lines[-1]["next_anchor"] = hash_row(row, layout)
        tensors = {name: each.clone() for name, each in layout.unflatten(row).items()}
        save_file(tensors, folder.adapter / WEIGHTS)
        lied_from_the_start(case, lines, lambda facts: facts.update(hardware={"system": "another"}))
        code, said = verify(case, "--recompute")
        assert code == 1, said
        assert "round 3: its anchor holds a value that is not finite" in said


@pytest.mark.parametrize("name", ["client-000002.reply", "anchor.safetensors"])
@pytest.mark.parametrize("what", ["zero", "pipe", "huge"])
def test_a_kept_file_that_never_ends_is_refused(case, name, what):
    path = case[0].path / KEPT / "round-0002" / name
    path.unlink()
    if what == "zero":
        path.symlink_to("/dev/zero")
    elif what == "pipe":
        os.mkfifo(path)
    else:
        with path.open("wb") as stream:
            stream.truncate(2**40)
    code, said = verify(case, "--recompute")
    assert code == 1
    told = "recompute: " if name.startswith("anchor") else "client 2 is counted, and its reply is"
    assert told in said


@pytest.mark.parametrize("what", ["pipe", "huge"])
def test_an_adapter_that_never_ends_is_refused(case, what):
    path = case[0].adapter / WEIGHTS
    path.unlink()
    if what == "pipe":
        os.mkfifo(path)
    else:
        with path.open("wb") as stream:
            stream.truncate(2**40)
    assert verify(case)[0] == 1
