"""A server that lies about the tries of a round: the node's own log, or the record itself, tells.

Not proven here: that a run stopped where the record says so; with every node's log its tries are
known, and not why the server went on with another one.
"""

import hashlib
import json
from shutil import copytree

import pytest
from recorded_runs import forge, lines_of, record
from typer.testing import CliRunner

from fedtune.cli import app
from fedtune.deployment.folder import DeploymentFolder
from fedtune.node.sent_log import SENT
from fedtune.records.folder import RunFolder
from fedtune.round.tries import STOPPED
from fedtune.simulation import client

_made = {}
RULE = {"name": "median", "f": 1, "geometry": "factors"}


def away_in_the_first_try_of_round_2(message, context):
    """Client 0 commits and never shows, client 3 is away: two of four are left, three needed."""
    order, number = message.content["order"], context.node_config["partition-id"]
    who = (message.kind, number)
    first = (order.get("round"), order.get("try")) == (2, 0)
    if first and who in {("train", 3), ("train.reveal", 0)}:
        raise ValueError("away")
    return client.app(message, context)


@pytest.fixture
def case(tiny_recipe, tmp_path, tmp_path_factory):
    """A copy of a run of four nodes that commit, the first try of whose round 2 was void."""
    if not _made:
        root = tmp_path_factory.mktemp("case")
        deployment = DeploymentFolder.create(root / "fed", 4, "127.0.0.1", 9443)
        recipe = tiny_recipe(
            aggregator=RULE,
            federation={"commit_then_reveal": True, "num_rounds": 2, "max_retries": 1},
            output_dir=str(root / "run"),
        )
        record(recipe, deployment, app=away_in_the_first_try_of_round_2)
        _made["root"] = root
    copytree(_made["root"], tmp_path / "case")
    return RunFolder(tmp_path / "case/run"), DeploymentFolder.open(tmp_path / "case/fed")


def verify(case, *, node=1):
    folder, deployment = case
    words = ["verify", str(folder.path), "--node", str(deployment.node_folders[node])]
    done = CliRunner().invoke(app, words)
    return done.exit_code, " ".join(done.output.split())


def lied_from_the_start(case, lines):
    """The record of a server that lied in each line as it wrote it: nodes were shown these."""
    folder, deployment = case
    forge(folder, deployment, lines)
    heads = [hashlib.sha256(line).hexdigest() for line in folder.written_lines()]
    for node in deployment.node_folders:
        said = [json.loads(line) for line in (node / SENT).read_text().splitlines()]
        for each in said:
            each["record"] = heads[each["round"] - 1]
        (node / SENT).write_text("".join(json.dumps(each) + "\n" for each in said))


def found_by(case, lines, told, *, node=1):
    lied_from_the_start(case, lines)
    code, said = verify(case, node=node)
    assert code == 1, said
    assert told in said


def test_the_true_record_passes_for_every_node(case):
    (void,) = lines_of(case[0])[2]["void"]
    assert (void["try"], set(void["clients"])) == (0, {"1", "2"})
    lied_from_the_start(case, lines_of(case[0]))  # writing it anew without a change changes nothing
    for node in (1, 2, 3):
        code, said = verify(case, node=node)
        assert code == 0, said
        assert said.count("counted as sent") == 2


def test_another_reply_in_a_void_try_is_found(case):
    lines = lines_of(case[0])
    lines[2]["void"][0]["clients"]["1"]["reply"] = "0" * 64
    found_by(case, lines, "round 2, try 0: the record has a reply that this node has not sent")


def test_two_clients_that_are_swapped_in_a_void_try_are_found(case):
    lines = lines_of(case[0])
    clients = lines[2]["void"][0]["clients"]
    clients["1"], clients["2"] = clients["2"], clients["1"]
    found_by(case, lines, "round 2, try 0: the record has this node's reply as client 2's")


def test_a_reply_that_is_left_out_of_a_void_try_is_found(case):
    lines = lines_of(case[0])
    del lines[2]["void"][0]["clients"]["1"]
    told = "round 2, try 0: this node has shown a reply, and the record does not say so"
    found_by(case, lines, told)


def test_a_void_try_that_the_record_keeps_silent_about_is_found(case):
    lines = lines_of(case[0])
    del lines[2]["void"]
    lines[2]["try"] = 0
    found_by(case, lines, "sent a reply in try 1, and the record has no such try", node=3)
    del lines[2]["try"]
    found_by(case, lines, "round 2: it does not say try", node=3)
    lines[2]["try"] = 1
    found_by(case, lines, "round 2: its void tries are not those before try 1", node=3)


def test_a_try_that_had_enough_replies_is_not_void(case):
    # A server that does not like what was shown would draw anew, from other seeds.
    lines = lines_of(case[0])
    lines[2]["void"][0]["clients"]["3"] = {"train_loss": 1.0, "reply": "0" * 64}
    found_by(case, lines, "round 2: try 0 is void, and has as many replies as the rule needs")


def test_a_reply_of_a_void_try_does_not_count_in_the_next(case):
    lines = lines_of(case[0])
    line = lines[2]
    line["clients"]["1"]["reply"] = line["void"][0]["clients"]["1"]["reply"]
    found_by(case, lines, "round 2: the record counts a reply that this node has not sent")


@pytest.mark.parametrize("said", [{}, {"reply": None}])
def test_a_void_try_says_what_was_shown_unless_the_run_stopped(case, said):
    lines = lines_of(case[0])
    void = lines[2]["void"][0]
    void["clients"]["2"] = said
    found_by(case, lines, "round 2: try 0: it does not say reply of client 2")
    void |= {"reason": STOPPED, "clients": {"1": said, "2": said}}
    lied_from_the_start(case, lines)
    assert verify(case)[0] == 0


def test_who_was_not_asked_has_shown_nothing(case):
    lines = lines_of(case[0])
    lines[2]["void"][0]["clients"]["7"] = {"reply": "0" * 64}
    found_by(case, lines, "round 2: try 0: client 7 was not asked, and has shown a reply")


@pytest.mark.parametrize("void", [{"clients": {}}, {"try": "0"}, {"try": 0, "clients": {"01": {}}}])
def test_a_void_try_in_another_form_is_no_line(case, void):
    lines = lines_of(case[0])
    lines[2]["void"] = [void]
    found_by(case, lines, "line 3 of metrics.jsonl is no line of a record")


def test_a_run_whose_clients_do_not_commit_has_no_tries(case):
    folder, _ = case
    text = folder.recipe.read_text()
    folder.recipe.write_text(text.replace("commit_then_reveal: true", "commit_then_reveal: false"))
    code, said = verify(case)
    assert code == 1
    assert "it has tries, and its clients do not commit" in said
