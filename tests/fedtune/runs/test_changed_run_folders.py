"""A run folder that someone has changed is not gone on in: links, checkpoints, the record's end.

Who can write into the folder of a run that is going on has its account; this is of folders that
came from elsewhere, or lay where others write.
"""

import json
import os
from shutil import copytree, rmtree

import pytest
from recorded_runs import lines_of

from fedtune.recipe import parse_recipe
from fedtune.records.checkpoint import FACTS, Checkpoint, load_latest
from fedtune.records.events import RunStoppedError
from fedtune.records.folder import RunFolder
from fedtune.runs.engines import execute
from fedtune.simulation import client

NAMES = [
    ".lock", "progress.jsonl", "events.jsonl", "metrics.jsonl", "manifest.json",
    "tries.json", "clients.json",
    ".recipe.yaml.tmp", "replies", "checkpoints", "kept_replies", "adapter", "clients",
]  # fmt: skip


@pytest.fixture
def begun(tmp_path):
    """A run's folder in which nothing has happened yet."""
    raw = {"output_dir": str(tmp_path / "run"), "aggregator": {"name": "mean"}}
    return RunFolder.create(parse_recipe(raw))


@pytest.mark.parametrize("name", NAMES)
def test_a_link_in_its_folder_stops_a_run_before_it_writes(begun, tmp_path, name):
    folder, recipe = begun
    mine = tmp_path / "mine"
    if "." in name:
        mine.write_text("as it was")
    else:
        mine.mkdir()
    (folder.path / name).symlink_to(mine)
    with pytest.raises(ValueError, match=rf"{name} is a link: a run goes on in a folder of its"):
        execute(recipe, folder)
    assert not mine.is_file() or mine.read_text() == "as it was"
    assert not mine.is_dir() or not list(mine.iterdir())


def test_a_link_deep_in_its_folder_is_found_too(begun, tmp_path):
    folder, recipe = begun
    (folder.path / "kept_replies" / "round-0001").mkdir(parents=True)
    (folder.path / "kept_replies" / "round-0001" / "client-000000.tmp").symlink_to(tmp_path)
    with pytest.raises(ValueError, match=r"client-000000\.tmp is a link"):
        execute(recipe, folder)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", [".lock", "events.jsonl", "tries.json"])
def test_a_pipe_in_its_folder_holds_no_run_up(begun, name):
    folder, recipe = begun
    os.mkfifo(folder.path / name)
    with pytest.raises(ValueError, match=f"{name} is no plain file"):
        execute(recipe, folder)


def test_the_lock_is_written_through_no_link(begun, tmp_path):
    folder, _ = begun
    mine = tmp_path / "mine"
    mine.write_text("as it was")
    (folder.path / ".lock").symlink_to(mine)
    with pytest.raises(OSError, match=r"\.lock"), folder.locked():
        pass
    assert mine.read_text() == "as it was"


_made = {}


@pytest.fixture
def stopped(run, tiny_recipe, tmp_path, tmp_path_factory):
    """A copy of a run that was stopped in its third round: its folder and recipe."""
    if not _made:
        root = tmp_path_factory.mktemp("stopped")

        def dies(message, context):
            if message.kind == "train" and message.content["order"]["round"] == 3:
                raise KeyboardInterrupt
            return client.app(message, context)

        for name, seed in (("run", 0), ("other", 1)):
            recipe = tiny_recipe(
                aggregator={"name": "mean", "geometry": "factors"},
                federation={"seed": seed},
                output_dir=str(root / name),
            )
            with pytest.raises(KeyboardInterrupt):
                run(recipe, app=dies)
        _made["root"] = root
    copytree(_made["root"], tmp_path / "stopped")
    return RunFolder.open(tmp_path / "stopped" / "run")


def resumed(run, stopped):
    folder, recipe = stopped
    return run.resume(recipe, folder)


def rounds(folder):
    return folder.checkpoints / "round-0001", folder.checkpoints / "round-0002"


def test_two_checkpoints_that_are_exchanged_are_refused(run, stopped):
    first, second = rounds(stopped[0])
    first.rename(first.with_name("aside"))
    second.rename(first)
    first.with_name("aside").rename(second)
    with pytest.raises(ValueError, match="all 2 checkpoints are damaged"):
        resumed(run, stopped)


def test_an_older_checkpoint_in_the_place_of_the_newest_is_passed_over(run, stopped):
    # Under the newest name it was gone on from without a word; its own name falls back to it.
    first, second = rounds(stopped[0])
    rmtree(second)
    copytree(first, second)
    assert load_latest(stopped[0].checkpoints).round == 1
    rmtree(first)
    with pytest.raises(ValueError, match="all 1 checkpoints are damaged"):
        resumed(run, stopped)


def test_a_checkpoint_of_another_run_is_refused_and_the_record_is_left_whole(run, stopped):
    folder = stopped[0]
    before = folder.metrics.read_bytes()
    other = RunFolder(folder.path.with_name("other"))
    rmtree(rounds(folder)[1])
    copytree(rounds(other)[1], rounds(folder)[1])
    with pytest.raises(RunStoppedError, match=r"round 2 (is not the state|does not end in)"):
        resumed(run, stopped)
    if other.metrics.stat().st_size != len(before):
        assert folder.metrics.read_bytes() == before


@pytest.mark.parametrize("offset", ["0", "end of round 1", "within a line", "1"])
def test_a_checkpoint_that_says_its_round_ends_earlier_drops_no_line(run, stopped, offset):
    """Sealed anew: the seal has no key, and the place is in no revision."""
    folder = stopped[0]
    before = folder.metrics.read_bytes()
    ends = [place + 1 for place, byte in enumerate(before) if byte == ord("\n")]
    at = {"0": 0, "1": 1, "end of round 1": ends[1], "within a line": ends[2] - 5}[offset]
    there = load_latest(folder.checkpoints)
    Checkpoint(2, there.state, at, there.layout_hash).save(folder.checkpoints, keep=2)
    with pytest.raises(RunStoppedError, match=r"round 2 does not end in metrics\.jsonl where"):
        resumed(run, stopped)
    assert folder.metrics.read_bytes() == before


def test_the_run_that_nobody_changed_goes_on(run, stopped):
    folder = resumed(run, stopped)
    assert [line["round"] for line in lines_of(folder)] == [0, 1, 2, 3]
    assert json.loads((folder.checkpoints / "round-0003" / FACTS).read_text())["round"] == 3
