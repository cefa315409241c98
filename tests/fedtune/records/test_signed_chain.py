"""The record of a run: chained, signed, and held by each node against what it sent."""

import hashlib
import json

import pytest
import yaml
from recorded_runs import forge, lines_of, record
from typer.testing import CliRunner

from fedtune.cli import app
from fedtune.deployment.folder import DeploymentFolder
from fedtune.node.sent_log import SENT, SentLog, read_sent
from fedtune.recipe.hashing import YOUNGER
from fedtune.records.signed_chain import bad_signature, broken_links, sign
from fedtune.trust.binding import hash_of_said


@pytest.fixture
def deployment(tmp_path):
    return DeploymentFolder.create(tmp_path / "fed", 4, "127.0.0.1", 9443)


@pytest.fixture
def recorded(tiny_recipe, deployment):
    """A run whose nodes have written down what they sent, signed by a deployment's server."""
    return record(tiny_recipe(aggregator={"name": "mean"}), deployment)


def verify(folder, *keys):
    done = CliRunner().invoke(app, ["verify", str(folder.path), *keys])
    return done.exit_code, " ".join(done.output.split())


def rewrite(folder, number, change):
    lines = folder.metrics.read_text().splitlines()
    record = json.loads(lines[number])
    change(record)
    lines[number] = json.dumps(record)
    folder.metrics.write_text("".join(line + "\n" for line in lines))


def test_a_node_finds_each_of_its_deltas_counted(recorded, deployment):
    node = deployment.node_folders[2]
    code, said = verify(recorded, "--node", str(node))
    assert code == 0, said
    assert "4 lines" in said
    assert "is client 2" in said
    for number in (1, 2, 3):
        assert f"round {number}: counted as sent, weight 25.0 %" in said
    assert "adapter: the one in which the record ends" in said
    assert [sent.round for sent in read_sent(node)] == [1, 2, 3]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_line_that_was_changed_is_found_by_the_next(recorded, number):
    rewrite(recorded, number, lambda record: record.update(note="never happened"))
    code, said = verify(recorded)
    assert code == 1
    assert f"line {number + 2} of metrics.jsonl does not follow line {number + 1}" in said


def test_a_changed_last_line_or_manifest_is_found(recorded, deployment):
    rewrite(recorded, 3, lambda record: record.update(note="never happened"))
    assert list(broken_links(recorded)) == []
    assert "another end" in bad_signature(recorded, deployment.ca)
    facts = json.loads(recorded.manifest.read_text())
    recorded.manifest.write_text(json.dumps({**facts, "seed": 99}))
    assert "line 1 of metrics.jsonl does not follow manifest.json" in verify(recorded)[1]


def test_a_line_that_was_left_out_is_found(recorded):
    lines = recorded.metrics.read_text().splitlines(keepends=True)
    recorded.metrics.write_text("".join(lines[:2] + lines[3:]))
    assert verify(recorded)[0] == 1


SHAPES = (
    "3",
    '"previous"',
    "[]",
    "{}",
    '{"previous": 3, "round": 1}',
    '{"previous": "x", "round": -1}',
    '{"previous": "x", "round": 1, "clients": []}',
    '{"previous": "x", "round": 1, "clients": {"0": 5}}',
    '{"previous": "x", "round": 1, "clients": {"none": {}}}',
    '{"previous": "x", "round": 1, "refused": {"0": {}}}',
    '{"previous": "x", "round": 1, "clients": ' + "[" * 5000,
    "\udcff",
)


def test_a_line_of_another_shape_is_told_and_no_crash(recorded, deployment):
    lines = recorded.metrics.read_text().splitlines()
    for line in SHAPES:
        text = "\n".join([*lines[:2], line, *lines[3:]]) + "\n"
        recorded.metrics.write_text(text, encoding="utf-8", errors="surrogateescape")
        code, said = verify(recorded, "--node", str(deployment.node_folders[0]))
        assert (code, line) == (1, line), said
        assert "line 3 of metrics.jsonl is no line of a record" in said


def test_a_round_that_stands_there_twice_is_found(recorded):
    lines = recorded.metrics.read_bytes().splitlines(keepends=True)
    again = {**json.loads(lines[-1]), "previous": hashlib.sha256(lines[-1]).hexdigest()}
    recorded.metrics.write_bytes(b"".join(lines) + json.dumps(again).encode() + b"\n")
    code, said = verify(recorded)
    assert code == 1
    assert "line 5 of metrics.jsonl is of round 3: need round 4" in said


def test_a_line_that_a_crash_cut_off_costs_no_other(recorded, deployment):
    node = deployment.node_folders[1]
    lines = (node / SENT).read_text().splitlines(keepends=True)
    (node / SENT).write_text("".join(lines[:2]) + lines[2][:20])
    last = {**json.loads(lines[2]), "recipe": recorded.read_manifest().recipe}
    SentLog(node).note(last, last["reply"], last["anchor"])
    code, said = verify(recorded, "--node", str(node))
    assert code == 0, said
    assert "round 3: counted as sent" in said


def test_a_signature_of_another_authority_is_none(recorded, tmp_path):
    other = DeploymentFolder.create(tmp_path / "other", 1, "127.0.0.1", 9443)
    assert "was not made by the server" in bad_signature(recorded, other.ca)
    sign(recorded, other.server_certificate, other.server_key)
    assert bad_signature(recorded, other.ca) is None


@pytest.mark.parametrize("text", ["", "{}", '{"certificate": 3}', '{"certificate": "x"}'])
def test_what_is_no_signature_is_told(recorded, deployment, text):
    (recorded.path / "signature.json").write_text(text)
    assert "is no signature" in bad_signature(recorded, deployment.ca)
    (recorded.path / "signature.json").unlink()
    assert "not signed" in bad_signature(recorded, deployment.ca)


def test_a_reply_that_a_node_has_not_sent_is_found(recorded, deployment):
    node = deployment.node_folders[1]
    lines = (node / SENT).read_text().splitlines(keepends=True)
    (node / SENT).write_text("".join(lines[:2]))
    code, said = verify(recorded, "--node", str(node))
    assert code == 1
    assert "round 3: the record counts a reply that this node has not sent" in said
    (node / SENT).write_text(lines[0].replace('"reply": "', '"reply": "00'))
    said = verify(recorded, "--node", str(node))[1]
    assert "round 1: the record counts a reply that this node has not sent" in said


def test_a_node_that_was_given_another_anchor_finds_it(recorded, deployment):
    node = deployment.node_folders[1]
    lines = [json.loads(line) for line in (node / SENT).read_text().splitlines()]
    lines[1]["anchor"] = lines[0]["anchor"]
    (node / SENT).write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, said = verify(recorded, "--node", str(node))
    assert code == 1
    assert "round 2: this node was given another anchor than the record says" in said
    assert "round 3: counted as sent" in said


def test_a_node_that_sent_nothing_and_a_folder_that_is_no_run_are_errors(
    recorded, deployment, tmp_path
):
    (deployment.node_folders[0] / SENT).unlink()
    assert verify(recorded, "--node", str(deployment.node_folders[0]))[0] == 2
    assert CliRunner().invoke(app, ["verify", str(tmp_path)]).exit_code == 2


def as_an_older_fedtune_wrote_it(folder, deployment):
    """No run, recipe or keys in the manifest, no next anchors, no words in the node's log."""
    young = ("run", "recipe", "node_keys")
    said = yaml.safe_load(folder.recipe.read_text())
    for section, keys in YOUNGER.items():
        said[section] = {k: v for k, v in said[section].items() if k not in keys}
    folder.recipe.write_text(yaml.safe_dump(said, sort_keys=False))
    lines = [{k: v for k, v in line.items() if k != "next_anchor"} for line in lines_of(folder)]
    forge(folder, deployment, lines, lambda facts: [facts.pop(name) for name in young])
    for node in deployment.node_folders:
        log = [json.loads(line) for line in (node / SENT).read_text().splitlines()]
        old = [{name: line[name] for name in ("round", "reply", "anchor")} for line in log]
        (node / SENT).write_text("".join(json.dumps(line) + "\n" for line in old))


def test_an_older_record_is_read_and_what_it_cannot_prove_is_said(recorded, deployment):
    as_an_older_fedtune_wrote_it(recorded, deployment)
    # However many keys have come since: the hash goes by those that stand in the file.
    assert hash_of_said(recorded.recipe) == recorded.read_manifest().recipe_hash
    node = str(deployment.node_folders[2])
    code, said = verify(recorded, "--node", node)
    assert code == 0, said
    assert "is client 2" in said
    assert said.count("counted as sent, weight 25.0 %") == 3
    assert "an older fedtune wrote this record" in said
    assert "adapter: not looked at" in said
    # A key that the recipe of that time did not have counts for nothing; one that it had does.
    text = recorded.recipe.read_text()
    recorded.recipe.write_text(text.replace("local_steps: 2", "local_steps: 3"))
    code, said = verify(recorded, "--node", node)
    assert code == 1
    assert "recipe.yaml is not the recipe whose hash stands in manifest.json" in said


def test_a_run_that_stopped_and_a_weight_that_is_no_mean_are_told(recorded, deployment):
    lines = lines_of(recorded)
    lines[3]["clients"]["0"]["weight"] = 0.4
    forge(recorded, deployment, lines)
    code, said = verify(recorded)
    assert code == 1
    assert "round 3: client 0 has a weight of 0.4: by the recipe it is 0.25" in said
    forge(recorded, deployment, lines[:2])
    assert "the record ends with round 1 of 3" in verify(recorded)[1]
    recorded.metrics.write_text("")
    assert "there is no record" in verify(recorded)[1]
