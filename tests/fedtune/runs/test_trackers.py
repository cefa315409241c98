"""`report_to` reaches TensorBoard, trackio and W&B with each round's figures, by TRL's names.

W&B is not installed with the tests: a module of its names stands for it, and the slow tier asks the
real one, offline, where it is here. Not proven: that its server takes what lies on this disk.
"""

import importlib.util
import json
import os
import sqlite3
import struct
import sys
import types
from pathlib import Path

import pytest

from fedtune.recipe import load_recipe
from fedtune.records.lines import RoundRecord
from fedtune.runs.trackers import Trackers

RECORD = {
    "round": 3,
    "eval": {"loss": 3.25},
    "train_s": 1.5,
    "upload_bytes": 640,
    "clients": {
        "0": {"train_loss": 3.5, "weight": 0.25, "said": {"rewards/format/mean": 0.5}},
        "1": {"train_loss": None},
        "3": {"train_loss": 2.5, "said": {"rewards/format/mean": 0.25, "made up": 1.0}},
    },
    "client_eval": {"1": {"loss": 3.0}},
    "refused": {"2": "it sent no reply"},
}
EXPECTED = {
    "eval/loss": 3.25,
    "time/train_s": 1.5,
    "comm/upload_bytes": 640,
    "train/global_step": 30,  # 3 rounds of 10 steps
    "train/loss": 3.0,  # the median of 3.5 and 2.5
    "train/rewards/format/mean": 0.375,
    "clients/0_org_acme/train_loss": 3.5,
    "clients/0_org_acme/weight": 0.25,
    "clients/0_org_acme/rewards/format/mean": 0.5,
    "clients/1_org__red_b/eval_loss": 3.0,
    "clients/3/train_loss": 2.5,
    "clients/3/rewards/format/mean": 0.25,
    "clients/refused": 1,
}


def track(name, folder):
    recipe = load_recipe("quickstart", [f"report_to={name}", f"output_dir={folder / 'run'}"])
    trackers = Trackers(recipe, ["org acme", "org [red]b", ""])
    trackers.log(RoundRecord.model_validate(RECORD))
    trackers.finish()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard's protocol buffers
def test_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    track("tensorboard", tmp_path)
    events = EventAccumulator(str(tmp_path / "run" / "trackers" / "run")).Reload()
    for name, value in EXPECTED.items():
        (scalar,) = events.Scalars(name)
        assert (scalar.step, scalar.value) == (3, pytest.approx(value))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of trackio's web server
def test_trackio(tmp_path):
    track("trackio", tmp_path)
    # Trackio reads the variable when it is first imported, which TRL's trainers do.
    (database,) = Path(os.environ["TRACKIO_DIR"]).rglob("*.db")
    with sqlite3.connect(database) as connection:
        (logged,) = connection.execute("select metrics from metrics").fetchall()
    assert json.loads(logged[0]) == pytest.approx(EXPECTED)


def test_wandb(tmp_path, monkeypatch):
    class Run:
        def __init__(self):
            self.logged, self.ended = [], False

        def log(self, values, step):
            self.logged.append((values, step))

        def finish(self):
            self.ended = True

    run, given, config = Run(), [], {}
    there = types.ModuleType("wandb")
    there.init = lambda **keys: given.append(keys) or run
    there.config = types.SimpleNamespace(update=lambda values, **_: config.update(values))
    monkeypatch.setitem(sys.modules, "wandb", there)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    track("wandb", tmp_path)
    (keys,) = given
    assert keys == {"project": "fedtune", "name": "run"}
    assert run.logged == [(pytest.approx(EXPECTED), 3)]
    assert run.ended
    assert config["federation/num_clients"] == 10


def records_in(log):
    """The records of a LevelDB log, as W&B writes one: blocks of 32 KiB, each record in parts."""
    place, whole = 7, b""  # after the file's own head
    while place + 7 <= len(log):
        if (left := 2**15 - place % 2**15) < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", log, place)
        whole += log[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in {1, 4}:  # all of it, or its last part
            yield whole
            whole = b""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="pip install wandb")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of its protocol buffers
def test_wandb_offline_keeps_what_it_is_given(tmp_path, monkeypatch):
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    track("wandb", tmp_path)
    wandb.teardown()  # its writer is a process of its own
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    kept = {}
    for record in map(Record.FromString, records_in(path.read_bytes())):
        if record.WhichOneof("record_type") == "run":
            assert (record.run.project, record.run.display_name) == ("fedtune", "run")
        for item in record.history.item:
            kept["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    assert {name: kept[name] for name in EXPECTED} == pytest.approx(EXPECTED)
    assert kept["_step"] == 3
    assert not any((tmp_path / "run").rglob("*wandb*"))  # the run's folder is the run's


def test_nothing_is_tracked_unless_asked(tmp_path):
    track("none", tmp_path)
    assert not (tmp_path / "run").exists()
