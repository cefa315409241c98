"""Whatever escapes in a run: one line, a traceback in a file, and what was finished stays."""

import json
import sys

import pytest
from plug_ins import installed  # noqa: F401  a fixture
from typer.testing import CliRunner

from fedtune.adapters import lora
from fedtune.cli import app
from fedtune.failing import one_line
from fedtune.messages.message import ConfigRecord, Message, RecordDict
from fedtune.recipe import to_yaml
from fedtune.records.events import RunStoppedError
from fedtune.records.failures import FILE
from fedtune.records.folder import RunFolder
from fedtune.runs.checks.preflight import find_problems
from fedtune.runs.engines import execute
from fedtune.training import loaded, process
from fedtune.training.evaluator import Evaluator
from fedtune.transport.local import LocalTransport


@pytest.fixture
def recipe(tiny_recipe):
    def make(**sections):
        return tiny_recipe(
            federation={"num_clients": 2, "num_rounds": 1, "local_steps": 2},
            aggregator={"name": "mean"},
            evaluation={"samples": 1, "per_client": True, "max_rows": 2},
            train={"per_device_train_batch_size": 2},
            **sections,
        )

    return make


@pytest.fixture
def raising(monkeypatch):
    """Return a function: have a method raise at its n-th call, and at no other."""

    def inject(owner, name, error, *, call=1):
        honest, calls = getattr(owner, name), []

        def broken(*given, **named):
            calls.append(name)
            if len(calls) == call:
                raise error
            return honest(*given, **named)

        monkeypatch.setattr(owner, name, broken)

    return inject


def stopped_in(recipe):
    folder, recipe = RunFolder.create(recipe)
    with pytest.raises(RunStoppedError) as stopped:
        execute(recipe, folder)
    assert "\n" not in str(stopped.value)
    return folder, recipe, stopped.value


@pytest.mark.parametrize(
    ("owner", "name", "error", "told"),
    [
        (
            loaded,
            "load_base",
            ImportError("no kernel"),
            "loading the model: ImportError: no kernel",
        ),
        (
            Evaluator,
            "measure",
            OverflowError("too large"),
            "measuring the base: OverflowError: too",
        ),
    ],
)
def test_a_folder_in_which_nothing_was_finished_goes_and_its_traceback_stays(
    recipe, raising, tmp_path, owner, name, error, told
):
    process.drop_workers()
    raising(owner, name, error)
    folder, _, stopped = stopped_in(recipe())
    assert str(stopped).startswith(told)
    assert not folder.path.exists()
    assert not stopped.resumable
    assert stopped.traceback == tmp_path / f"run.{FILE}"
    text = stopped.traceback.read_text()
    assert "Traceback (most recent call last)" in text
    assert f"{type(error).__name__}: {error}" in text


@pytest.mark.parametrize(
    ("owner", "name", "call", "error", "told"),
    [
        (Evaluator, "measure", 4, IndexError("7"), "round 1, measuring: IndexError: 7"),
        (Evaluator, "samples", 2, KeyError("role"),
         "after the last round, writing samples: KeyError: 'role'"),
        (lora, "save", 1, MemoryError(),
         "after the last round, writing the adapter: MemoryError: the memory does not suffice"),
    ],
)  # fmt: skip
def test_what_was_finished_before_can_be_gone_on_with(
    recipe, raising, owner, name, call, error, told
):
    raising(owner, name, error, call=call)
    folder, bound, stopped = stopped_in(recipe())
    assert str(stopped) == told
    assert stopped.resumable
    assert stopped.traceback == folder.path / FILE
    assert type(error).__name__ in stopped.traceback.read_text()
    execute(bound, folder)
    assert (folder.path / "samples.jsonl").is_file()
    assert not (folder.path / FILE).exists()


def test_a_failing_step_names_client_step_and_rows(recipe, raising):
    # Each client takes two steps of two rows: the fourth step is client 1's second one.
    from transformers import Trainer

    raising(Trainer, "training_step", RuntimeError("CUDA error:\nan assert"), call=4)
    folder, bound = RunFolder.create(recipe())
    execute(bound, folder)
    (refused,) = folder.read_records()[-1].refused.values()
    assert refused.startswith(
        "the client failed: RuntimeError: CUDA error: an assert (local step 2"
    )
    text = (folder.path / FILE).read_text()
    assert text.startswith("client 1, train in round 1\nTraceback")
    numbers = text.rpartition("on rows ")[2].partition(" of ")[0].split(", ")
    parts = process.get_worker(bound.model_dump_json()).data.parts
    assert len(numbers) == 2
    assert {int(number) for number in numbers} <= set(parts[1].train)


def test_all_clients_that_fail_alike_end_the_run_on_one_screen(recipe, monkeypatch):
    from transformers import Trainer

    def broken(*given, **named):
        raise KeyError("labels")

    monkeypatch.setattr(Trainer, "training_step", broken)
    _, _, stopped = stopped_in(recipe())
    assert "client 0: the client failed: KeyError: 'labels' (local step 1 of 2; on " in str(stopped)
    assert stopped.traceback.read_text().count("Traceback") == 2


REWARDED = {"task": "grpo", "rewards": [{"name": "entry_point", "entry": "mine"}]}


def test_a_reward_that_raises_is_found_by_check_or_named_in_the_run(
    installed,  # noqa: F811
    recipe,
    tmp_path,
):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"Say {n}"}) + "\n" for n in range(20)))
    train = {"max_completion_length": 4, "num_generations": 2}
    rewarded = recipe(**REWARDED, data={"source": str(rows)})
    rewarded = rewarded.model_copy(update={"train": {**rewarded.train, **train}})
    code = "def mine(prompt, completion, row):\n    return row['price']\n"
    installed("priced", code, mine="mine")
    (problem,) = find_problems(rewarded)
    assert problem == "rewards.mine: asked about the first row it raises KeyError: 'price'"
    process.drop_workers()
    _, _, stopped = stopped_in(rewarded)
    assert str(stopped).startswith("measuring the base: KeyError: 'price' (rewards.mine, asked ab")


def test_the_screen_of_a_run_that_fails(tiny_recipe, raising, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(to_yaml(tiny_recipe(aggregator={"name": "mean"})))
    raising(Evaluator, "measure", ZeroDivisionError("of two\nlines"))
    result = CliRunner().invoke(app, ["run", str(recipe)])
    assert result.exit_code == 1
    screen = result.output.partition("the run stopped: ")[2].splitlines()
    assert screen[0] == "measuring the base: ZeroDivisionError: of two lines"
    assert screen[1].startswith("the traceback lies in ")
    assert screen[1].endswith(f"run.{FILE}")
    assert "--resume" not in result.output
    assert sorted(each.name for each in tmp_path.iterdir()) == ["recipe.yaml", f"run.{FILE}"]


def test_any_command_that_breaks_shows_one_line_and_keeps_the_traceback(monkeypatch, tmp_path):
    def broken(*given, **named):
        raise IndexError("list index out of range")

    monkeypatch.setenv("FEDTUNE_CACHE", str(tmp_path))
    monkeypatch.setattr("fedtune.recipe.stages.load", broken)
    result = CliRunner().invoke(app, ["check", "quickstart"])
    assert result.exit_code == 1
    assert result.output.startswith("error IndexError: list index out of range\n")
    assert "Traceback" not in result.output
    assert "in broken" in (tmp_path / FILE).read_text()


def test_a_client_that_ends_its_process_fails_alone():
    def leave(message, context):
        sys.exit(3)

    transport = LocalTransport(leave, 2)
    order = Message(RecordDict({"order": ConfigRecord({"round": 4})}), node_id=3)
    (reply,) = transport.pull([transport.push(order, most=10)])
    lines = reply.error.reason.splitlines()
    assert lines[:2] == ["client 1, train in round 4", "Traceback (most recent call last):"]
    assert lines[-1] == "SystemExit: 3"


def test_a_line_of_an_error_is_short_and_keeps_where_it_was():
    error = ValueError("a\n" * 500)
    error.add_note("local step 1 of 2")
    error.add_note("on row 3 of rows.jsonl")
    assert len(one_line(error)) == 280
    assert one_line(error).endswith(" (local step 1 of 2; on row 3 of rows.jsonl)")
