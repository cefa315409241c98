"""`report_to` reaches TensorBoard and trackio with each round's figures.

Not proven here: Weights & Biases, which is not installed with the tests.
"""

import json
import os
import sqlite3
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
    "clients": {"0": {"train_loss": 3.5, "weight": 0.25}, "1": {"train_loss": None}},
    "refused": {"2": "it sent no reply"},
}
EXPECTED = {
    "eval/loss": 3.25,
    "time/train_s": 1.5,
    "comm/upload_bytes": 640,
    "clients/0/train_loss": 3.5,
    "clients/0/weight": 0.25,
    "clients/refused": 1,
}


def track(name, folder):
    recipe = load_recipe("quickstart", [f"report_to={name}", f"output_dir={folder / 'run'}"])
    trackers = Trackers(recipe)
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


def test_nothing_is_tracked_unless_asked(tmp_path):
    track("none", tmp_path)
    assert not (tmp_path / "run").exists()
