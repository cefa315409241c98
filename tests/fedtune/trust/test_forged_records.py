"""A server that forges the record of its own run, and signs it anew: a node's log finds it.

Not proven here: that nodes wrote down what they were sent over a real network (test_three_nodes.py
does), and anything that no node's log and no kept reply speaks of.
"""

import json
from dataclasses import replace
from shutil import copytree

import pytest
from recorded_runs import forge, lines_of, record
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from fedtune.cli import app
from fedtune.deployment.folder import DeploymentFolder
from fedtune.node.sent_log import SENT, SentLog
from fedtune.recipe.leaving import leaving
from fedtune.records.checkpoint import load_latest
from fedtune.records.events import RunStoppedError
from fedtune.records.folder import RunFolder
from fedtune.simulation import client

_made = {}
RULE = {"name": "median", "f": 1, "geometry": "factors"}


@pytest.fixture
def case(tiny_recipe, tmp_path, tmp_path_factory):
    """A copy of one run of four nodes, and of their deployment."""
    if not _made:
        root = tmp_path_factory.mktemp("case")
        deployment = DeploymentFolder.create(root / "fed", 4, "127.0.0.1", 9443)
        record(tiny_recipe(aggregator=RULE, output_dir=str(root / "run")), deployment)
        _made["root"] = root
    copytree(_made["root"], tmp_path / "case")
    return RunFolder(tmp_path / "case/run"), DeploymentFolder.open(tmp_path / "case/fed")


def verify(case, *words, node=1):
    folder, deployment = case
    words = (*words, "--node", str(deployment.node_folders[node]))
    done = CliRunner().invoke(app, ["verify", str(folder.path), *words])
    return done.exit_code, " ".join(done.output.split())


def edit_recipe(folder, *pairs):
    text = folder.recipe.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    folder.recipe.write_text(text)


def bind_edited_recipe(folder, deployment):
    """The manifest now says what recipe.yaml says, and all hashes follow."""
    text = leaving(RunFolder.open(folder.path)[1]).model_dump_json()
    forge(folder, deployment, manifest=lambda facts: facts.update(recipe=text))


def test_the_true_record_passes_for_every_node(case):
    for node in range(4):
        code, said = verify(case, "--deployment", str(case[1].path), node=node)
        assert code == 0, said
        assert f"is client {node}" in said
        assert said.count("counted as sent") == 3
        assert "the 4 keys of" in said
    forge(*case)  # writing it anew without a change changes nothing
    assert verify(case)[0] == 0


def test_an_edited_recipe_is_found_by_key(case):
    edit_recipe(case[0], ("name: median\n  f: 1", "name: mean\n  f: 0"))
    code, said = verify(case)
    assert code == 1
    assert "recipe.yaml: aggregator.name is 'mean'; this run was begun with 'median'" in said
    assert "recipe.yaml: aggregator.f is 0; this run was begun with 1" in said


def test_an_edited_recipe_with_a_manifest_to_match_is_of_another_run(case):
    edit_recipe(case[0], ("name: median\n  f: 1", "name: mean\n  f: 0"))
    bind_edited_recipe(*case)
    code, said = verify(case)
    assert code == 1
    assert "recipe.yaml" not in said
    assert "the record counts nothing that" in said


def test_a_lower_rank_that_explains_a_wrong_anchor_is_found(case):
    folder, deployment = case
    log = deployment.node_folders[1] / SENT
    sent = [json.loads(line) for line in log.read_text().splitlines()]
    sent[1]["anchor"] = "0" * 64  # what this node was truly given
    log.write_text("".join(json.dumps(line) + "\n" for line in sent))
    assert "round 2: this node was given another anchor" in verify(case)[1]
    ranks = "client_ranks:\n  - 2\n  - 1\n  - 2\n  - 2\n"
    edit_recipe(folder, ("client_ranks: null\n", ranks), ("geometry: factors", "geometry: product"))
    edit_recipe(folder, ("combination: factors", "combination: exact"))
    edit_recipe(folder, ("name: median", "name: geometric_median"))
    code, said = verify(case)
    assert code == 1
    assert "recipe.yaml: lora.client_ranks is [2, 1, 2, 2]; this run was begun with None" in said
    bind_edited_recipe(*case)
    code, said = verify(case)
    assert code == 1
    assert "the record counts nothing that" in said


def drop(line, client, reason=None):
    line["clients"].pop(client, None)
    if reason is None:
        line["sampled"] = [k for k in line["sampled"] if str(k) != client]
    else:
        line["refused"][client] = reason


@pytest.mark.parametrize("reason", [None, "it sent no reply", "it holds a value of NaN"])
def test_a_sent_reply_that_the_record_does_not_count_is_found(case, reason):
    lines = lines_of(case[0])
    drop(lines[2], "1", reason)
    forge(*case, lines)
    code, said = verify(case)
    assert code == 1
    why = "not asked" if reason is None else f"refused: {reason}"
    assert f"round 2: this node has sent a reply, and the record does not count it: {why}" in said
    # A node that this was not done to sees that the sample is not the seed's, or nothing at all.
    code, said = verify(case, node=0)
    assert code == 1
    found = "by seed and recipe it is [0, 1, 2, 3]" if reason is None else "was shown then"
    assert found in said


def test_a_last_round_that_is_cut_off_is_found(case):
    forge(*case, lines_of(case[0])[:-1])
    code, said = verify(case)
    assert code == 1
    assert "the record ends with round 2 of 3" in said
    assert "round 3: this node has sent a reply, and the record has no such round" in said


def test_a_shorter_run_in_the_recipe_does_not_explain_a_cut(case):
    edit_recipe(case[0], ("num_rounds: 3", "num_rounds: 2"))
    forge(*case, lines_of(case[0])[:-1])
    assert "federation.num_rounds is 2; this run was begun with 3" in verify(case)[1]


def test_the_record_of_another_run_is_found(case, tiny_recipe, tmp_path):
    folder, deployment = case
    again = DeploymentFolder.create(tmp_path / "elsewhere", 4, "127.0.0.1", 9443)
    other = record(tiny_recipe(aggregator=RULE, output_dir=str(tmp_path / "other")), again)
    for one, two in zip(lines_of(folder), lines_of(other), strict=True):
        assert one["next_anchor"] == two["next_anchor"]  # the same replies to the bit
    forge(other, deployment)
    code, said = verify((other, deployment))
    assert code == 1
    assert "the record counts nothing that" in said
    # Who took part in both is told which one this is, and that there is a newer one.
    mine, theirs = (each.node_folders[1] / SENT for each in (deployment, again))
    mine.write_text(mine.read_text() + theirs.read_text())
    meant = other.manifest_hash()
    code, said = verify(case, "--run", meant[:12])
    assert code == 1
    assert f"this is not the run {meant[:12]}" in said
    code, said = verify(case)
    assert code == 0
    assert f"sent to 1 other runs, and since this one to {meant}" in said


def test_two_clients_that_are_swapped_are_found(case):
    lines = lines_of(case[0])
    clients = lines[2]["clients"]
    clients["1"], clients["2"] = clients["2"], clients["1"]
    forge(*case, lines)
    for node, other in ((1, 2), (2, 1)):
        code, said = verify(case, node=node)
        assert code == 1
        assert f"round 2: the record counts this node's reply as client {other}'s" in said
        assert "round 2: the record counts a reply that this node has not sent" in said


def test_two_clients_whose_keys_are_swapped_too_are_found(case):
    lines = lines_of(case[0])
    for line in lines[1:]:
        clients = line["clients"]
        clients["1"], clients["2"] = clients["2"], clients["1"]

    def swap(facts):
        keys = facts["node_keys"]
        keys[1], keys[2] = keys[2], keys[1]

    forge(*case, lines, swap)
    code, said = verify(case, "--deployment", str(case[1].path / "deployment.json"))
    assert code == 1
    assert "client 1 of this run is not node-01 of" in said
    assert "the record counts nothing that" in said


def test_a_history_that_is_written_anew_is_found(case):
    lines = lines_of(case[0])
    lines[1]["eval"]["loss"] /= 2
    forge(*case, lines)
    code, said = verify(case)
    assert code == 1
    told = "the record before it is not the one that this node was shown then"
    assert f"round 2: {told}" in said
    assert f"round 3: {told}" in said


def test_a_step_from_another_anchor_is_found_without_a_node(case):
    folder, deployment = case
    lines = lines_of(folder)
    lines[1]["next_anchor"] = "0" * 64
    forge(*case, lines)
    done = CliRunner().invoke(app, ["verify", str(folder.path), "--ca", str(deployment.ca)])
    assert done.exit_code == 1
    assert "round 2: began from another anchor than round 1 led to" in done.output


def test_another_adapter_in_the_folder_is_found(case):
    path = case[0].adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({name: tensor + 1e-3 for name, tensor in tensors.items()}, path)
    code, said = verify(case)
    assert code == 1
    assert "is not the adapter in which the record ends" in said


def test_a_lower_f_than_the_recipes_is_found(case):
    lines = lines_of(case[0])
    lines[3]["f"] = 0
    forge(*case, lines)
    assert "round 3: the rule was run with f=0: need f=1" in verify(case)[1]


def test_a_key_that_stands_there_twice_is_no_line(case):
    folder = case[0]
    lines = folder.metrics.read_text().splitlines()
    lines[3] = lines[3].replace('"clients": {', '"clients": {"01": {}, ', 1)
    folder.metrics.write_text("\n".join(lines) + "\n")
    assert "line 4 of metrics.jsonl is no line of a record" in verify(case)[1]
    lines[3] = lines[3].replace('"clients": {"01": {}, ', '"round": 3, "clients": {', 1)
    folder.metrics.write_text("\n".join(lines) + "\n")
    assert "line 4 of metrics.jsonl is no line of a record" in verify(case)[1]


def test_words_of_the_record_cannot_write_to_the_terminal(case):
    lines = lines_of(case[0])
    drop(lines[2], "1", "\x1b[2J[red]nothing speaks against\nthis record")
    forge(*case, lines)
    done = CliRunner().invoke(
        app, ["verify", str(case[0].path), "--node", str(case[1].node_folders[1])]
    )
    assert "\x1b[2J" not in done.output
    assert "refused: ?[2J[red]nothing speaks against?this record" in " ".join(done.output.split())


def test_an_order_that_binds_no_record_is_not_answered(case):
    log = SentLog(case[1].node_folders[0])
    order = {"round": 4, "recipe": "{}", "manifest": "0" * 64, "record": "0" * 64}
    log.note(order, "r", "a")
    for name in ("manifest", "record"):
        for word in (None, 3, "x", "0" * 63 + "\n"):
            with pytest.raises(ValueError, match=f"an order needs '{name}'"):
                log.note({**order, name: word}, "r", "a")


@pytest.mark.parametrize("what", ["anchor", "outer"])
def test_a_checkpoint_that_was_edited_and_sealed_anew_is_refused(run, tiny_recipe, what):
    """The seal has no key; the record's line has the hash of anchor and state."""

    def dies(message, context):
        if message.kind == "train" and message.content["order"]["round"] == 3:
            raise KeyboardInterrupt
        return client.app(message, context)

    recipe = tiny_recipe(
        aggregator={"name": "mean", "geometry": "factors"},
        outer={"name": "nesterov", "momentum": 0.5},
    )
    with pytest.raises(KeyboardInterrupt):
        run(recipe, app=dies)
    folder, recipe = RunFolder.open(recipe.output_dir)
    there = load_latest(folder.checkpoints)
    momentum = {name: each + 1 for name, each in there.state.items() if name.startswith("outer/")}
    edits = {"anchor": {"anchor": there.anchor + 1e-3}, "outer": momentum}
    replace(there, state=there.state | edits[what]).save(folder.checkpoints, keep=2)
    differs = {"anchor": "next_anchor", "outer": "revision"}[what]
    with pytest.raises(RunStoppedError, match=rf"round 2 is not the state .*\({differs} differs\)"):
        run.resume(recipe, folder)
    there.save(folder.checkpoints, keep=2)  # brought back
    run.resume(recipe, folder)
    assert CliRunner().invoke(app, ["verify", str(folder.path)]).exit_code == 0
