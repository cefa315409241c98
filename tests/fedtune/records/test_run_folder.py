"""A run's folder belongs to one process, and its recipe can be run again from anywhere."""

import io
import json
import math
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from rich.console import Console

from fedtune.recipe import load_recipe, parse_recipe
from fedtune.recipe.source import with_absolute_paths
from fedtune.records.event_log import EventLog
from fedtune.records.events import RoundFinished, RunStarted
from fedtune.records.folder import RunFolder
from fedtune.records.lines import RoundRecord
from fedtune.report.finished import print_run
from fedtune.report.live import LiveView
from fedtune.training.base import find_folder
from fedtune.training.sources import find_source, load_rows
from fedtune.training.tasks import TASKS


def test_runs_that_begin_at_once_get_a_folder_each(tmp_path):
    recipe = parse_recipe({"output_dir": str(tmp_path / "runs" / "run")})
    together = threading.Barrier(8)

    def create(_):
        together.wait()
        return RunFolder.create(recipe)

    for _ in range(5):
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(create, range(8)))
        assert len({folder.path for folder, _ in made}) == 8
        for folder, own in made:
            assert load_recipe(str(folder.recipe)).output_dir == own.output_dir == folder.path


def test_records_are_json_that_any_reader_takes(tmp_path, tiny_recipe):
    """Python would write NaN and Infinity, which no other reader of JSON knows."""
    folder = RunFolder(tmp_path)
    figures = {"loss": math.inf, "perplexity": math.inf, "token_accuracy": 0.0, "num_tokens": 5}
    clients = {0: {"weight": math.nan, "train_loss": -math.inf}}
    folder.append_metrics(
        RoundRecord.model_validate(
            {"round": 0, "eval": {**figures, "loss": 5.0, "perplexity": 148.4}}
        )
    )
    folder.append_metrics(
        RoundRecord.model_validate(
            {"round": 1, "eval": figures, "clients": clients, "train_s": math.nan}
        )
    )

    def refuse(word):
        raise AssertionError(word)

    lines = folder.metrics.read_text().splitlines()
    last = [json.loads(line, parse_constant=refuse) for line in lines][-1]
    assert len(last.pop("previous")) == 64
    assert last == {
        "round": 1,
        "eval": {"loss": None, "perplexity": None, "token_accuracy": 0.0, "num_tokens": 5},
        "clients": {"0": {"weight": None, "train_loss": None}},
        "train_s": None,
        "schema_version": 2,
    }
    screen = Console(file=io.StringIO(), width=80)
    print_run(screen, tiny_recipe(), folder)
    assert "148.4" in screen.file.getvalue()
    with LiveView(screen, tiny_recipe(), animate=False) as view:
        view(RunStarted(folder.read_records()))
        view(RoundFinished(folder.read_records()[-1]))
        screen.print(view.render())
    assert "loss -" in screen.file.getvalue()


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(FileExistsError):
        RunFolder.create(parse_recipe({"output_dir": str(tmp_path / "run")}))


@pytest.fixture
def here(tmp_path, monkeypatch, tiny_model_folder, small_data):
    """A working folder that holds a model, rows and a saved data set; then one goes elsewhere."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "model").symlink_to(tiny_model_folder("llama"))
    (folder / "rows.jsonl").symlink_to(small_data("jsonl"))
    (folder / "saved").symlink_to(small_data("saved"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    "source",
    [
        "rows.jsonl",
        "./rows.jsonl",
        "saved",
        {"path": "saved"},
        {"path": "json", "data_files": "rows.jsonl"},
        {"path": "json", "data_files": ["rows*.jsonl", "rows.jsonl"]},
    ],
)
def test_a_recipe_of_relative_paths_goes_on_from_anywhere(here, monkeypatch, source):
    folder, _ = RunFolder.create(
        parse_recipe(
            {
                "model": {"name_or_path": "model"},
                "data": {"source": source, "eval_source": source},
                "output_dir": "run",
            }
        )
    )
    assert folder.path == here / "run"
    monkeypatch.chdir(here.parent / "elsewhere")
    _, recipe = RunFolder.open(folder.path)
    assert find_folder(recipe.model) == here / "model"
    assert len(load_rows(recipe.data, TASKS[recipe.task], seed=0)) in {64, 128}
    assert recipe.data.eval_source == recipe.data.source


@pytest.mark.parametrize(
    ("model", "source"),
    [
        ("nano", "python-docs"),
        ("someone/model", "someone/rows"),
        ("nano", {"path": "someone/rows", "data_files": "data/*.parquet"}),
        ("nano", {"path": "json", "data_files": "https://example.org/rows.jsonl"}),
    ],
)
def test_what_is_no_path_here_stays_a_name(here, model, source):
    (here / "nano").mkdir()  # the word means the embedded model, whatever lies about
    (here / "python-docs").mkdir()
    (here / "json").mkdir()
    recipe = parse_recipe({"model": {"name_or_path": model}, "data": {"source": source}})
    assert with_absolute_paths(recipe) == recipe
    if source == "python-docs":
        assert find_source(with_absolute_paths(recipe).data.source) == "python-docs"


def test_what_a_run_writes_is_its_owners_alone(tmp_path, run, tiny_recipe):
    """Its files name folders, data and people, and other accounts are on the same machine."""
    before = os.umask(0o000)
    try:
        samples = {"evaluation": {"samples": 1, "max_new_tokens": 2}}
        folder = run(tiny_recipe(output_dir=str(tmp_path / "above" / "run"), **samples))
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    for name in ("recipe.yaml", "manifest.json", "metrics.jsonl", "samples.jsonl"):
        assert stat.S_IMODE((folder.path / name).stat().st_mode) == 0o600, name
    assert stat.S_IMODE(folder.path.parent.stat().st_mode) == 0o777


def test_files_are_their_owners_in_a_folder_that_was_there(tmp_path):
    path = tmp_path / "mine"
    path.mkdir(mode=0o755)
    folder, _ = RunFolder.create(parse_recipe({"output_dir": str(path)}))
    assert stat.S_IMODE(folder.recipe.stat().st_mode) == 0o600
    with EventLog(folder.path, lambda _: None):
        assert stat.S_IMODE((folder.path / "events.jsonl").stat().st_mode) == 0o600
