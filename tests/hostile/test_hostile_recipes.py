"""A hostile server's orders against a node: its recipes, its anchors, and what comes back of them.

The node's own desk and the whole Client answer. Nothing of a file, a path or an exception's text
may be in what is told, and nothing that is not finite in what is sent. Flower's transport is not
part of this.
"""

import json
import math
import sys

import numpy as np
import pytest
import torch

from fedtune.deployment.node import NodeConfig
from fedtune.messages import wire
from fedtune.messages.message import RecordDict
from fedtune.messages.node_errors import CODES, told
from fedtune.messages.packing import pack, unpack
from fedtune.node import worker as node_worker
from fedtune.node.owner import MAX_RECIPE_BYTES, adapt, adapter_of
from fedtune.plain import MOST_SIGNS, last_traceback
from fedtune.recipe import load_recipe, parse_recipe
from fedtune.simulation import client
from fedtune.training.process import drop_workers, get_worker

SECRET = "hunter2-of-the-owner"
PRIVATE = "privacy: {clipping_norm: 1.0, epsilon: 0.9, delta: 1.0e-6}\n"
opened = []
watched = []


def _watch(event, args):
    if watched and event == "open" and str(args[0]) == watched[0]:
        opened.append(args[0])


sys.addaudithook(_watch)


@pytest.fixture
def secret(tmp_path):
    """A file of the owner's whose content no one is to learn; whoever opens it is noted."""
    path = tmp_path / "secret.json"
    path.write_text(json.dumps({SECRET: True}))
    opened.clear()
    watched[:] = [str(path)]
    yield path
    watched.clear()


@pytest.fixture
def node(tmp_path):
    """Return a function: kind, order -> what the node tells the server, or its answer."""
    folder = tmp_path / "node"
    folder.mkdir()
    (folder / "node.yaml").write_text("device: cpu\n")
    (folder / "run").mkdir()
    desk = node_worker.Desk(client.app, adapter_of(folder))

    def ask(kind, order, more=""):
        (folder / "node.yaml").write_text(f"device: cpu\n{more}")
        words = {"kind": kind, "client": 1, "run_id": 5, "node_id": 7}
        try:
            sent = desk.reply_to(words, pack(order))
        except Exception as error:
            return told(error)
        return unpack(sent)

    yield ask
    drop_workers()


def recipe(**sections):
    few = {"num_clients": 3, "num_rounds": 2, "local_steps": 1}
    train = {"per_device_train_batch_size": 2, "max_length": 32, "gradient_checkpointing": False}
    base = {
        "federation": few,
        "aggregator": {"name": "mean"},
        "data": {"max_rows": 200},
        "evaluation": {"max_rows": 8},
        "model": {"device": "cpu"},
    }
    return {**base, **sections, "train": {**train, **sections.get("train", {})}}


def order(sections, anchor=None, round_=1):
    """What a server sends; its hash is that of the anchor, whatever stands in it."""
    text = parse_recipe(sections).model_dump_json()
    worker = get_worker(parse_recipe(recipe()).model_dump_json())
    row = worker.initial if anchor is None else anchor(worker.initial.clone())
    agreement = wire.Agreement(
        worker.base_hash, worker.base.tokenizer_hash, wire.hash_row(row, worker.layout)
    )
    arrays = wire.to_arrays(row, worker.layout)
    return wire.train_order(arrays, recipe_json=text, round_=round_, agreement=agreement)


PATHS = [
    "accelerator_config", "fsdp_config", "deepspeed", "chat_template_path", "model_init_kwargs",
    "resume_from_checkpoint", "parallelism_config", "liger_kernel_config",
    "gradient_checkpointing_kwargs", "lr_scheduler_kwargs", "debug", "optim_args",
]  # fmt: skip


KINDS = ["query", "train", "evaluate"]


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        pytest.param(kind, key, marks=() if KINDS[k % 3] == kind else pytest.mark.slow)
        for k, key in enumerate(PATHS)
        for kind in KINDS
    ],
)
def test_no_key_of_trls_opens_a_file(node, secret, key, kind):
    said = node(kind, order(recipe(train={key: str(secret)})))
    assert said.startswith("not-allowed: this node's owner does not allow it: train." + key)
    assert SECRET not in said
    assert str(secret) not in said
    assert opened == []


@pytest.mark.parametrize(
    "sections",
    [
        {"model": {"name_or_path": "{}"}},
        {"initial_adapter": "{}"},
        {"task": "dpo", "reference": "{}"},
        {"data": {"source": "{}"}},
        {"data": {"source": {"path": "json", "data_files": ["{}"]}}},
        {"task": "grpo", "rewards": [{"name": "reward_model", "adapter": "{}"}]},
    ],
)
def test_no_key_of_ours_opens_a_file(node, secret, sections):
    filled = json.loads(json.dumps(sections).replace("{}", str(secret)))
    said = node("train", order(recipe(**filled)))
    assert said.startswith("not-allowed: ")
    assert SECRET not in said
    assert opened == []


def test_a_failure_is_told_by_a_code_of_the_list_alone(node, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({SECRET: "a column of the owner's"}) + "\n")
    mine = f"data: {rows}\n"
    cases = [
        node("train", order(recipe()), mine),  # columns of no task
        node("train", order(recipe()), f"data: {tmp_path}/none.jsonl\n"),
        node("train.reveal", wire.reveal_order(recipe_json=json.dumps(recipe()), round_=9)),
        node("train", RecordDict()),
        node("of no kind", RecordDict()),
        node("train", order(recipe(lora={"target_modules": ["no_such_module"]}))),
        node("train", order(recipe(model={"device": "cpu", "name_or_path": "a/" + SECRET}))),
    ]
    for said in cases:
        code, _, reason = said.partition(": ")
        assert code in CODES
        assert str(tmp_path) not in said
        assert len(said.splitlines()) == 1
        if code != "not-allowed":  # which names the server's own model
            assert reason == CODES[code]
            assert SECRET not in said


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_an_anchor_that_is_not_finite_is_refused(node, value, kind):
    def spoil(row):
        row[-1] = value
        return row

    assert node(kind, order(recipe(), spoil)).startswith("bad-anchor: ")
    if kind == "train":
        assert node(kind, order(recipe(), spoil), PRIVATE).startswith("bad-anchor: ")


def test_an_anchor_of_another_dtype_or_shape_is_refused(node):
    for spoil in (
        lambda values: values.astype(np.float64),
        lambda values: values.astype(np.float32)[:-1],
        lambda values: values.astype(np.int32),
        lambda values: np.array(["x"] * values.size).reshape(values.shape),
    ):
        sent = order(recipe())
        record = sent.array_records[wire.ANCHOR]
        name = sorted(record)[0]
        record[name] = wire.Array.of(spoil(record[name].numpy()))
        # No packed message holds text: the thin app, which packs what came otherwise, fails at it.
        code = "failed" if record[name].dtype.startswith("<U") else "bad-anchor"
        assert node("train", sent) == f"{code}: {CODES[code]}"


def test_a_step_that_overflows_is_zeros_under_noise_or_a_failure(node):
    # The largest finite anchor there is: the forward pass overflows, and so does each gradient.
    def huge(row):
        return torch.full_like(row, 3e38)

    assert node("train", order(recipe(), huge)) == f"not-finite: {CODES['not-finite']}"
    private = node("train", order(recipe(), huge), PRIVATE)
    values = np.concatenate(
        [each.numpy().ravel() for each in private.array_records[wire.DELTA].values()]
    )
    deviation = 2 * math.sqrt(2 * math.log(1.25 / 1e-6)) / 0.9
    assert np.isfinite(values).all()
    assert values.std() == pytest.approx(deviation, rel=0.05)


def test_nothing_that_is_not_finite_passes_the_desk(tmp_path):
    arrays = {"a": wire.Array.of(np.array([1.0, math.nan], dtype=np.float32))}
    said = RecordDict({wire.DELTA: wire.ArrayRecord(arrays), wire.ABOUT: wire.ConfigRecord({})})

    def answer(message, context):
        return message.reply(said)

    desk = node_worker.Desk(answer, lambda text: (text, {}))
    body = pack(wire.reveal_order(recipe_json="{}", round_=1))
    words = {"kind": "train.reveal", "client": 1, "run_id": 5, "node_id": 7}
    with pytest.raises(ValueError, match="not finite") as failed:
        desk.reply_to(words, body)
    assert failed.value.code == "not-finite"


@pytest.mark.parametrize("section", ["", "lora", "train"])
def test_a_recipe_that_is_wrong_in_every_key_fills_no_log(tmp_path, section):
    raw = json.loads(load_recipe("three_nodes").model_dump_json())
    wrong = raw[section] if section else raw
    wrong |= {f"k{number}": 0 for number in range(15_000)}
    assert 150_000 < len(json.dumps(raw)) < MAX_RECIPE_BYTES
    said = ""
    try:
        adapt(json.dumps(raw), NodeConfig(), tmp_path)
    except ValueError:
        said = last_traceback()
    assert 0 < len(said) <= MOST_SIGNS
