"""Cells on real training with a tiny model, the recording of honest updates, and the pool.

Not proven here: the command line around it (test_bench_runs).
"""

import json
import multiprocessing
import os
import signal
from dataclasses import replace

import pytest
import torch
import yaml
from typer.testing import CliRunner

from fedtune.attack_bench import recording
from fedtune.attack_bench.cells import lay_out
from fedtune.attack_bench.pool import Begun, Ended, run_tasks
from fedtune.attack_bench.recording import record_rounds
from fedtune.attack_bench.rounds import load_rounds
from fedtune.attack_bench.schema import Bench, Drawn
from fedtune.attack_bench.store import Store
from fedtune.attack_bench.training import train_cell
from fedtune.attack_bench.vectors import replay_cell
from fedtune.attack_bench.work import Task, perform
from fedtune.cli import app
from fedtune.origin import code_hash
from fedtune.records.events import RoundFinished, RunStoppedError
from fedtune.records.folder import RunFolder
from fedtune.report.bench_progress import BenchView
from fedtune.runs.engines import execute
from fedtune.simulation.precomputed import replay


def tiny(tiny_model_folder, small_data, **changes):
    """A bench of a tiny model."""
    federation = {"num_clients": 5, "local_steps": 2}
    if changes.get("level") != "vectors":
        federation["num_rounds"] = 2
    return {
        "title": "Tiny",
        "fractions": [0.2],
        "seeds": [0],
        "set": {
            "model.name_or_path": str(tiny_model_folder("llama")),
            "data": {"source": str(small_data("jsonl"))},
            "data.partition": {"by": "iid", "min_rows": 2},
            "federation": federation,
            "train.per_device_train_batch_size": 2,
            "lora.r": 2,
            "aggregator.f": 1,
        },
        "defences": {"krum": {"aggregator": {"name": "krum"}}},
        "attacks": {
            "noise": {"name": "gaussian"},
            "flip": {"name": "sign_flip", "scale": 10},
        },
        **changes,
    }


@pytest.fixture(scope="module")
def cells(tiny_model_folder, small_data):
    """A bench of a tiny model, as (attack, defence) -> recipe."""

    def make(**changes):
        bench = Bench.model_validate(tiny(tiny_model_folder, small_data, **changes))
        return {(cell.attack, cell.defence): cell.recipe for cell in lay_out(bench)}

    return make


def without_folder(result):
    return result.model_dump(exclude={"seconds"})


def test_a_cell_is_a_run_and_leaves_recipe_and_records(cells, tmp_path):
    recipe = cells()["flip", "krum"]
    told = train_cell(recipe, tmp_path / "cell", remembered=tmp_path / "shared")
    assert [round_ for round_, _ in told.curve] == [0, 1, 2]
    assert told.base == told.curve[0][1]
    assert told.loss == told.curve[-1][1]
    attackers = [client for client, facts in told.clients.items() if facts.attacker]
    assert len(attackers) == 1
    assert told.clients[attackers[0]].dropped == 2  # krum has not picked it
    assert told.worst_client.client not in attackers
    assert set(told.own) == set(range(5)) - set(attackers)
    assert all(each.before and each.after for each in told.own.values())
    assert len({each.before for each in told.own.values()}) > 1  # each of its own rows
    assert told.client_names == []  # rows dealt iid have no name
    left = {path.name for path in (tmp_path / "cell").iterdir()}
    assert {"recipe.yaml", "metrics.jsonl", "manifest.json"} <= left
    assert not left & {"checkpoints", "adapter", "replies", "clients"}


def test_a_cell_that_was_cut_off_goes_on_to_the_same_figures(cells, tmp_path):
    recipe = cells()["noise", "krum"]
    whole = train_cell(recipe, tmp_path / "whole", remembered=tmp_path / "one")
    folder, opened = RunFolder.create(recipe.model_copy(update={"output_dir": tmp_path / "cut"}))

    def cut(event):
        if isinstance(event, RoundFinished) and event.record.round == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(opened, folder, cut)
    before = folder.metrics.read_bytes()
    told = train_cell(recipe, tmp_path / "cut", remembered=tmp_path / "two")
    assert without_folder(told) == without_folder(whole)
    assert folder.metrics.read_bytes().startswith(before)  # it went on, and did not begin anew


def test_what_another_recipe_has_left_is_not_gone_on_from(cells, tmp_path):
    both = cells()
    train_cell(both["noise", "krum"], tmp_path / "cell", remembered=tmp_path / "shared")
    (tmp_path / "cell" / "checkpoints" / "round-0001").mkdir(parents=True)
    told = train_cell(both["flip", "krum"], tmp_path / "cell", remembered=tmp_path / "shared")
    alone = train_cell(both["flip", "krum"], tmp_path / "alone", remembered=tmp_path / "shared")
    assert told == alone


def test_a_run_that_stops_is_swept_too(cells, tmp_path):
    defences = {"krum": {"aggregator": {"name": "krum"}}}  # n >= 2f + 3 = 5, and four reply
    recipe = cells(defences=defences, attacks={"silence": {"name": "silence"}})["silence", "krum"]
    with pytest.raises(RunStoppedError, match="krum needs"):
        train_cell(recipe, tmp_path / "cell", remembered=tmp_path / "shared")
    assert not (tmp_path / "cell" / "checkpoints").exists()


def test_the_server_steps_on_recorded_updates_as_the_recording_did(cells, tmp_path, monkeypatch):
    recipe = cells(level="vectors", rounds={"recorded": {"num_rounds": 2}})["none", "mean of all"]
    path = record_rounds(recipe, tmp_path)
    layout, (first, second) = load_rounds(path)
    assert first.rows.shape == (5, layout.size)
    assert bool((first.rows != first.rows[0]).any())
    after = next(replay(recipe, layout, [first])).after
    torch.testing.assert_close(after, second.anchor, rtol=1e-6, atol=1e-7)
    stamp = path.stat().st_mtime_ns
    assert record_rounds(recipe, tmp_path) == path
    assert path.stat().st_mtime_ns == stamp
    monkeypatch.setattr(recording, "made_by", lambda: "code of tomorrow")
    later = record_rounds(recipe, tmp_path)  # another code may record other rows
    assert later != path
    assert later.read_bytes() == path.read_bytes()


def test_recorded_updates_under_attack(cells, tmp_path):
    both = cells(level="vectors", rounds={"recorded": {"num_rounds": 2}})
    path = record_rounds(both["none", "mean of all"], tmp_path)
    assert replay_cell(both["oracle", "mean of all"], load_rounds(path)).loss < 1e-8
    assert 0 < replay_cell(both["flip", "krum"], load_rounds(path)).loss < 2


@pytest.mark.slow
def test_ctrl_c_while_rows_are_recorded(tiny_model_folder, small_data, tmp_path, monkeypatch):
    """What the folder shows of an earlier run stays, and the way on is said."""
    bench = tmp_path / "tiny.yaml"
    bench.write_text(yaml.safe_dump(tiny(tiny_model_folder, small_data, level="vectors",
                                         rounds="recorded")))  # fmt: skip
    out = tmp_path / "out"
    out.mkdir()
    (out / "results.jsonl").write_text("before")

    def interrupt(view, key, name):
        raise KeyboardInterrupt

    monkeypatch.setattr(BenchView, "begun", interrupt)
    result = CliRunner().invoke(app, ["bench", str(bench), "--jobs", "1", "--out", str(out)])
    assert result.exit_code == 130, result.output
    assert "Go on with: fedtune bench" in " ".join(result.output.split())
    assert (out / "results.jsonl").read_text() == "before"
    assert not (out / "summary.json").exists()
    assert multiprocessing.active_children() == []


def test_a_loss_that_is_no_number_is_called_diverged(cells, tmp_path):
    """One liar sends the mean so far that the model answers with no number: it is no stop."""
    made = cells(
        attacks={"flip": {"name": "sign_flip", "scale": 1e12}},
        defences={"mean": {"aggregator": {"name": "mean"}}},
    )
    recipe = made["flip", "mean"]
    recipe = recipe.model_copy(
        update={"federation": recipe.federation.model_copy(update={"num_rounds": 1})}
    )
    task = Task(
        key="far",
        group="0",
        kind="training",
        recipe_json=recipe.model_dump_json(),
        path=str(tmp_path / "cell"),
        remembered=str(tmp_path / "shared"),
    )
    told = perform(task)
    assert told.status == "diverged", told
    assert told.message == "the held-out loss is no finite number"
    assert told.loss is None
    assert told.curve
    assert told.code == code_hash()
    # with a round more the honest clients have nothing finite to say: neither stopped nor skipped
    task = replace(
        task, path=str(tmp_path / "longer"), recipe_json=made["flip", "mean"].model_dump_json()
    )
    more = perform(task)
    assert more.status == "diverged", more
    assert more.message.endswith("; the held-out loss is no finite number")
    assert len(more.curve) == 2
    store = Store(tmp_path / "store")
    store.keep("new", told)
    store.keep("old", told.model_copy(update={"status": "stopped"}))  # as it was written before
    store.keep("other", told.model_copy(update={"status": "stopped", "message": "too few"}))
    assert [store.read(key).status for key in ("new", "old", "other")] == [
        "diverged",
        "diverged",
        "stopped",
    ]


def drawn_task(cells, key, tmp_path, **changes):
    drawn = Drawn(num_rounds=2, modules=1, d_out=6, d_in=5, **changes)
    made = cells(level="vectors", rounds={"drawn": {"num_rounds": 2}})
    return Task(
        key=key,
        group="0",
        kind="vectors",
        recipe_json=made["flip", "krum"].model_dump_json(),
        path=str(tmp_path),
        drawn_json=drawn.model_dump_json(),
    )


def test_a_process_that_dies_takes_its_task_alone(cells, tmp_path):
    tasks = [drawn_task(cells, key, tmp_path) for key in ("one", "two")]
    results = {}
    for event in run_tasks(tasks, jobs=1, log=tmp_path / "log"):
        if isinstance(event, Begun) and event.key == "one":
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        if isinstance(event, Ended):
            results[event.key] = event.result
    assert results["one"].status == "crashed"
    assert "ended with code -9" in results["one"].message
    assert results["two"].status == "done"
    assert multiprocessing.active_children() == []


def test_leaving_the_pool_early_ends_its_processes(cells, tmp_path):
    events = run_tasks([drawn_task(cells, "one", tmp_path)], jobs=3, log=tmp_path / "log")
    assert next(events) == Begun("one")
    assert len(multiprocessing.active_children()) == 1  # no more processes than tasks
    events.close()
    assert multiprocessing.active_children() == []


def test_what_is_no_result_is_called_crashed(cells, tmp_path, capsys):
    told = perform(drawn_task(cells, "odd", tmp_path, common=0.0, offset=0.0, noise=0.0))
    assert told.status == "crashed"
    assert "needs to move the model" in told.message
    assert "Traceback" in capsys.readouterr().err  # in the bench it goes to the log


@pytest.mark.slow
def test_a_bench_with_a_backdoor_measures_its_floor(tiny_model_folder, small_data, tmp_path):
    """Seven cells of one round, through the command line to the table."""
    raw = tiny(tiny_model_folder, small_data, attacks={"door": {"name": "trigger", "token": "xq"}})
    raw["set"] |= {
        "federation": {"num_clients": 5, "local_steps": 2, "num_rounds": 1},
        "evaluation": {"max_rows": 8, "backdoor_rows": 3},
    }
    bench = tmp_path / "tiny.yaml"
    bench.write_text(yaml.safe_dump(raw))
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["bench", str(bench), "--jobs", "1", "--out", str(out)])
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    planted = [line for line in lines if line["backdoor"] is not None]
    assert {line["attack"] for line in planted} == {
        "floor 25 %",
        "floor 50 %",
        "floor 100 %",
        "door",
    }
    for line in planted:
        assert [point[0] for point in line["backdoor"]["curve"]] == [0, 1]
        assert None not in line["backdoor"]["curve"][1]
    summary = json.loads((out / "summary.json").read_text())
    (table,) = summary["tables"]
    assert table["floor"]["end"]["values"].keys() == {"0"}
    (cell,) = table["cells"]
    assert cell["above_floor"] is not None
    assert cell["worst_honest"]["client"] in range(5)
    assert cell["least"]["round"] == 1
    assert summary["seconds"] > 0
    assert "Floor of a backdoor" in (out / "summary.md").read_text()
