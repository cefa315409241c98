"""Differential privacy that a node's owner switches on: clipped, noisy, no figure beside it."""

import json
import math

import numpy as np
import pytest
import torch
from flwr.supercore.task_identity import TaskIdentity

from fedtune.deployment.node import NodeConfig, load_node_config
from fedtune.messages import wire
from fedtune.messages.message import Context, RecordDict
from fedtune.node.owner import adapter_of
from fedtune.node.privacy import finite, privately, refuse_figures
from fedtune.recipe import RecipeError, parse_recipe
from fedtune.records.events import RunStoppedError
from fedtune.simulation import client
from fedtune.training.process import get_worker
from fedtune.training.row_counts import RowCounts
from fedtune.training.tasks import Figures

SIZES = {"a": (300, 200), "b": (40, 1000)}
ASKED = {"clipping_norm": 2.0, "epsilon": 0.5, "delta": 1e-5}


@pytest.fixture(autouse=True)
def no_task(monkeypatch):
    """A node's worker is no process that Flower started for a task."""
    monkeypatch.setattr(TaskIdentity, "_run_id", None)


def reply(scale):
    arrays = {
        name: wire.Array.of(np.full(shape, scale, dtype=np.float32))
        for name, shape in SIZES.items()
    }
    return RecordDict(
        {
            wire.DELTA: wire.ArrayRecord(arrays),
            wire.ABOUT: wire.ConfigRecord({"round": 2}),
            wire.METRICS: wire.MetricRecord({"train_loss": 3.5, "entropy": 1.0}),
        }
    )


def context(config):
    return Context(config)


def values(content):
    arrays = content.array_records[wire.DELTA]
    return np.concatenate([arrays[name].numpy().ravel() for name in SIZES])


def test_nothing_is_touched_unless_the_owner_asks():
    sent = reply(1.0)
    assert privately(sent, context({"partition-id": 1})) is sent


def test_the_noise_is_that_of_the_theorem_for_twice_the_clipping_norm():
    noisy = values(privately(reply(0.0), context(ASKED)))
    std = 2 * 2.0 * math.sqrt(2 * math.log(1.25 / 1e-5)) / 0.5
    assert noisy.dtype == np.float32
    assert noisy.std() == pytest.approx(std, rel=0.02)  # of 100,000 draws
    assert abs(noisy.mean()) < 5 * std / math.sqrt(noisy.size)


def test_a_delta_is_clipped_before(monkeypatch):
    monkeypatch.setattr(np.random, "normal", lambda mean, std, shape: np.zeros(shape))
    clipped = values(privately(reply(1.0), context(ASKED)))
    assert np.linalg.norm(clipped) == pytest.approx(2.0, rel=1e-4)
    small = values(privately(reply(1e-4), context(ASKED)))
    assert small == pytest.approx(np.full(small.size, 1e-4))


@pytest.mark.parametrize("spoilt", [math.nan, math.inf, -math.inf])
def test_a_delta_that_is_not_finite_becomes_noise_around_zeros(spoilt):
    true = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    sent = reply(0.0)
    arrays = {"a": true[:60_000].reshape(300, 200), "b": true[60_000:].reshape(40, 1000)}
    arrays["b"] = arrays["b"].copy()
    arrays["b"][3, 4] = spoilt  # Flower's clipping takes this norm for one that is short enough
    sent[wire.DELTA] = wire.ArrayRecord(
        {name: wire.Array.of(each) for name, each in arrays.items()}
    )
    noisy = values(privately(sent, context(ASKED)))
    assert np.isfinite(noisy).all()
    cosine = noisy @ true / np.linalg.norm(noisy) / np.linalg.norm(true)
    assert abs(cosine) < 5 / math.sqrt(true.size)  # five deviations of pure noise's


def test_a_delta_whose_square_overflows_is_clipped(monkeypatch):
    monkeypatch.setattr(np.random, "normal", lambda mean, std, shape: np.zeros(shape))
    clipped = values(privately(reply(1e30), context(ASKED)))
    assert np.linalg.norm(clipped) == pytest.approx(2.0, rel=1e-4)


def test_training_that_fails_is_told_unless_replies_are_private():
    row = torch.tensor([1.0, math.nan])
    with pytest.raises(ValueError, match="not finite"):
        finite(row, context({}))
    assert finite(row, context(ASKED)).tolist() == [0.0, 0.0]
    assert finite(row[:1], context(ASKED)).tolist() == [1.0]


def test_the_noise_is_not_that_of_the_recipes_seed():
    drawn = []
    for _ in range(2):
        np.random.seed(0)  # as training does
        drawn.append(values(privately(reply(0.0), context(ASKED))))
    assert not np.array_equal(drawn[0], drawn[1])


def test_no_figure_goes_out_beside_it():
    made = privately(reply(1.0), context(ASKED))
    assert set(made.metric_records[wire.METRICS]) == {"train_loss"}
    assert math.isnan(made.metric_records[wire.METRICS]["train_loss"])
    assert made.config_records[wire.ABOUT]["round"] == 2
    with pytest.raises(ValueError, match="keeps its figures"):
        refuse_figures(context(ASKED))
    refuse_figures(context({}))


def test_the_owner_writes_it_into_the_nodes_file(tmp_path):
    (tmp_path / "node.yaml").write_text(
        "privacy: {clipping_norm: 2.0, epsilon: 0.5, delta: 1e-5}\n"
    )
    federation = {"num_clients": 3, "num_rounds": 2, "local_steps": 4}
    recipe = parse_recipe({"federation": federation, "aggregator": {"name": "mean"}})
    _, told = adapter_of(tmp_path)(recipe.model_dump_json())
    assert {key: told[key] for key in ASKED} == ASKED
    (tmp_path / "node.yaml").write_text("privacy: {clipping_norm: 2.0, epsilon: 8}\n")
    with pytest.raises(RecipeError, match="epsilon"):
        load_node_config(tmp_path)
    assert NodeConfig().privacy is None


@pytest.mark.parametrize("private", [True, False])
def test_rows_on_which_training_fails_are_not_told_of(run, tiny_recipe, monkeypatch, private):
    # A server that asks for one row, and for rows of at most so many tokens, would hear a length.
    def app(message, context):
        if private:
            context.node_config.update(ASKED)
        return client.app(message, context)

    recipe = tiny_recipe(
        aggregator={"name": "mean", "geometry": "factors"},
        train={"max_length": 1},
        federation={"num_rounds": 1, "max_retries": 0},
        evaluation={"every": 5},
    )
    worker = get_worker(recipe.model_dump_json())
    # The server's own rows are no part of this.
    monkeypatch.setattr(worker.evaluator, "measure", lambda *_, **__: Figures(1.0))
    monkeypatch.setattr(worker.data, "held_out_counts", lambda _: RowCounts(6, 6))
    monkeypatch.setattr(worker.data, "counts", lambda _: RowCounts(6, 6))
    if not private:
        with pytest.raises(RunStoppedError, match="max_length leaves none of"):
            run(recipe, app=app)
        return
    line = json.loads(run(recipe, app=app).metrics.read_text().splitlines()[1])
    assert len(line["clients"]) == 4
    assert all(each["norm"] > 1 for each in line["clients"].values())  # noise
