"""A node's worker: the answers of the whole Client, by way of a socket that is its owner's."""

import hashlib
import json
import stat
import threading
import time
from contextlib import contextmanager

import pytest
import torch
from flwr import app as flower
from flwr.supercore.task_identity import TaskIdentity

from fedtune.messages import wire
from fedtune.messages.content_hash import hash_reply
from fedtune.messages.message import ConfigRecord, Context, Message, RecordDict
from fedtune.messages.packing import pack
from fedtune.node import node_app
from fedtune.node import worker as node_worker
from fedtune.node.client import OWN_ROWS, TELLS_ROWS, told_of
from fedtune.runs import network
from fedtune.simulation import client
from fedtune.training.process import get_worker
from fedtune.training.sources import load_rows
from fedtune.training.tasks import TASKS
from fedtune.transport.flower.convert import blob_of, packed, to_flower, unpacked

CONFIG = {"partition-id": 1}


@pytest.fixture
def node(tmp_path, monkeypatch):
    """Return a function: adapt -> the socket of a worker that listens."""

    def start(adapt=lambda recipe: (recipe, {})):
        path = tmp_path / "w.sock"
        served = threading.Thread(
            target=node_worker.serve, args=(path, client.app, adapt), daemon=True
        )
        served.start()
        while not path.exists():
            time.sleep(0.01)
        monkeypatch.setenv(node_app.SOCKET, str(path))
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 5, 7, 1
        return path

    return start


def message(kind, content):
    """As Flower hands it to an app."""
    made = flower.Message(content, 7, kind)
    made.metadata.__dict__["_message_id"] = "asked"
    return made


def context():
    return flower.Context(5, 7, CONFIG, flower.RecordDict(), {})


def opened(reply):
    """The records of a reply that came packed."""
    assert blob_of(reply.content) is not None
    return unpacked(reply.content)


def order(recipe):
    """What a server sends for the first round."""
    text = recipe.model_dump_json()
    worker = get_worker(text)
    hashes = (worker.base_hash, worker.base.tokenizer_hash)
    agreement = wire.Agreement(*hashes, wire.hash_row(worker.initial, worker.layout))
    anchor = wire.to_arrays(worker.initial, worker.layout)
    return wire.train_order(anchor, recipe_json=text, round_=1, agreement=agreement)


def test_the_thin_app_answers_as_the_whole_one_does(node, tiny_recipe):
    path = node()
    recipe = tiny_recipe()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    direct = client.app(Message(order(recipe), 7, "train"), Context(CONFIG)).content
    layout = get_worker(recipe.model_dump_json()).layout
    for sent in (packed(order(recipe)), to_flower(order(recipe))):
        thin = node_app.app(message("train", sent), context())
        assert thin.metadata.reply_to_message_id == "asked"
        assert hash_reply(opened(thin)) == hash_reply(direct)
        moved = wire.from_arrays(opened(thin).array_records[wire.DELTA], layout)
        assert torch.count_nonzero(moved) > 0
    words = RecordDict({wire.ORDER: ConfigRecord({"recipe": recipe.model_dump_json()})})
    said = node_app.app(message("query", packed(words)), context())
    assert opened(said).config_records[wire.ABOUT]["client"] == 1


def test_without_a_worker_an_order_is_answered_as_it_came(tiny_recipe):
    words = RecordDict({wire.ORDER: ConfigRecord({"recipe": tiny_recipe().model_dump_json()})})
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 5, 7, 1
    plain = network.clients(message("query", to_flower(words)), context())
    came_packed = network.clients(message("query", packed(words)), context())
    assert blob_of(plain.content) is None
    assert hash_reply(opened(came_packed)) == hash_reply(unpacked(plain.content))


def test_without_a_worker_a_failure_is_told_by_a_code_too(capfd):
    words = RecordDict({wire.ORDER: ConfigRecord({"recipe": "/home/me/secret"})})
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 5, 7, 1
    failed = network.clients(message("query", packed(words)), context())
    assert failed.error.reason == "failed: the reason is in this node's log"
    assert "Error" in capfd.readouterr().err


def test_what_fails_is_told_by_a_code_and_the_worker_goes_on(node, tiny_recipe, capfd):
    def adapt(recipe):
        if asked.pop() == "no":
            raise ValueError("/home/me/secret.json holds\x1b[2J 'token'")
        return recipe, {}

    asked = ["yes", "no"]
    node(adapt)
    words = {"recipe": tiny_recipe().model_dump_json()}
    content = packed(RecordDict({wire.ORDER: ConfigRecord(words)}))
    failed = node_app.app(message("query", content), context())
    assert failed.error.reason == "failed: the reason is in this node's log"
    logged = capfd.readouterr().err
    assert "ValueError: /home/me/secret.json holds?[2J 'token'" in logged
    assert node_app.app(message("query", content), context()).has_content()


def test_a_node_with_rows_of_its_own_trains_on_all_of_them(node, tiny_recipe, small_data):
    from datasets import Value

    recipe = tiny_recipe(data={"test_fraction": 0.25})
    node(lambda text: (text, {OWN_ROWS: True}))  # the same app, told of other rows
    words = RecordDict({wire.ORDER: ConfigRecord({"recipe": recipe.model_dump_json()})})
    reply = node_app.app(message("query", packed(words)), context())
    said = opened(reply).config_records[wire.ABOUT]
    assert said["rows"] == 48  # of 64, less a quarter that it holds out for itself
    assert said["client"] == 1
    columns = load_rows(recipe.data, TASKS["sft"], seed=0).features
    assert {"prompt", "completion"} <= set(columns)
    assert said["schema_hash"] == schema_hash_of(columns)
    assert said["schema_hash"] != schema_hash_of({**columns, "label": Value("bool")})


def schema_hash_of(columns):
    from datasets import Features

    schema = json.dumps(Features(columns).to_dict(), sort_keys=True)
    return hashlib.sha256(schema.encode()).hexdigest()


def test_a_worker_that_is_not_there_is_waited_for_and_then_named(node, tmp_path, monkeypatch):
    monkeypatch.setenv(node_app.SOCKET, str(tmp_path / "none.sock"))
    monkeypatch.setattr(node_app, "_START_S", 0.3)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 5, 7, 1
    failed = node_app.app(message("query", flower.RecordDict()), context())
    assert failed.error.reason == "no-worker: this node's worker does not answer"


class Counting:
    """Says what it was asked, in order."""

    def __init__(self):
        self.seen = []

    @contextmanager
    def order(self):
        self.seen.append("begin")
        try:
            yield
        finally:
            self.seen.append("end")

    def charge(self, kind, run_id, words):
        self.seen.append((kind, run_id, words["round"]))


def test_every_order_is_counted_before_it_is_read_and_charged_before_it_is_done(tiny_recipe):
    def answer(message, context):
        meter.seen.append("work")
        return message.reply(RecordDict())

    def adapt(text):
        meter.seen.append("read")
        return text, {}

    meter = Counting()
    desk = node_worker.Desk(answer, adapt, meter=meter)
    words = {"run_id": 5, "node_id": 7, "client": 1}
    body = pack(order(tiny_recipe()))
    for kind in node_worker.KINDS:
        meter.seen.clear()
        desk.reply_to({**words, "kind": kind}, body)
        assert meter.seen == ["begin", "read", (kind, 5, 1), "work", "end"]
    meter.seen.clear()
    with pytest.raises(ValueError, match="needs a kind"):
        desk.reply_to({**words, "kind": "other"}, body)
    with pytest.raises(ValueError, match="cut short"):
        desk.reply_to({**words, "kind": "train"}, b"no message")
    assert meter.seen == ["begin", "end"] * 2


@pytest.mark.parametrize(("tells", "rows"), [(True, 58), (False, None)])  # of 64, a tenth held out
def test_the_number_of_rows_is_told_only_if_the_owner_lets_it(node, tiny_recipe, tells, rows):
    words = {"recipe": tiny_recipe().model_dump_json()}
    node(lambda text: (text, {OWN_ROWS: True, TELLS_ROWS: tells}))
    content = packed(RecordDict({wire.ORDER: ConfigRecord(words)}))
    said = opened(node_app.app(message("query", content), context())).config_records[wire.ABOUT]
    assert said.get("rows") == rows


def test_figures_of_held_out_rows_count_them_only_if_the_owner_lets_it():
    """They are a known share of all rows."""
    figures = {"loss": 2.5, "num_tokens": 70.0, "num_pairs": 7.0, "num_prompts": 7.0}
    for config, told in ({}, figures), ({TELLS_ROWS: True}, figures), ({TELLS_ROWS: False}, None):
        assert told_of(figures, Context(config, RecordDict())) == (told or {"loss": 2.5})
