"""Whatever is renamed into place is on disk before, and its new name is on disk after.

Not proven here: what a power cut does to a disk that lies about having written.
"""

import os

import pytest
import torch

from fedtune.durable import make_folder, write_whole
from fedtune.records.checkpoint import Checkpoint
from fedtune.records.folder import RunFolder
from fedtune.records.lines import RoundRecord
from fedtune.training import inner_state

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows syncs no folder")


@pytest.fixture
def synced(monkeypatch):
    """The numbers of files and folders in the order in which they were synced, with all renames.

    At each rename, what is renamed must have been synced since it was written; the folder that
    holds it is asked for at the end.
    """
    log, fsync, replace = [], os.fsync, os.replace

    def note_sync(handle):
        log.append(("sync", os.fstat(handle).st_ino))
        fsync(handle)

    def note_rename(source, target):
        parts = [source, *source.rglob("*")]
        missing = [part for part in parts if ("sync", part.stat().st_ino) not in log]
        assert not missing, f"renamed before it was on disk: {missing}"
        replace(source, target)
        log.append(("rename into", target.parent.stat().st_ino))

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_rename)
    return log


def write_checkpoint(folder):
    Checkpoint(1, {"anchor": torch.ones(3)}, 0, "layout").save(folder / "checkpoints", keep=1)


def write_optimizer(folder):
    state = {0: {"exp_avg": torch.ones(3)}}
    inner_state.save(state, folder / "clients" / "0000", round_=1, keep=2)


def write_adapter(folder):
    def write(path):
        path.mkdir()
        (path / "adapter_model.safetensors").write_bytes(b"numbers")

    RunFolder(folder).replace_adapter(write)


def write_text(folder):
    write_whole(folder / "recipe.yaml", "task: sft\n")


@pytest.mark.parametrize("write", [write_checkpoint, write_optimizer, write_adapter, write_text])
def test_what_is_renamed_is_on_disk_and_so_is_the_rename(tmp_path, synced, write):
    write(tmp_path)
    renames = [i for i, (what, _) in enumerate(synced) if what == "rename into"]
    assert len(renames) == 1
    assert ("sync", synced[renames[0]][1]) in synced[renames[0] :]


def test_a_new_folder_is_on_disk_in_each_of_those_above(tmp_path, synced):
    make_folder(tmp_path / "a" / "b" / "c")
    above = [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    assert synced == [("sync", folder.stat().st_ino) for folder in above]
    make_folder(tmp_path / "a" / "b")
    assert len(synced) == 3


def test_the_first_record_is_found_in_its_folder(tmp_path, synced):
    folder = RunFolder(tmp_path)
    folder.append_metrics(RoundRecord.model_validate({"round": 0}))
    assert synced == [("sync", path.stat().st_ino) for path in (folder.metrics, tmp_path)]
