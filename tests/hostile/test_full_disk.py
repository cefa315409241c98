"""A disk, or a quota, that is full: an error that names the file, and nothing that is half there.

The limit is that of the kernel on a file's size, set for a moment in this process. A file system
that is full, under a run over a network: tests/fedtune/federation/test_network_faults.py.
"""

import json
import resource
from contextlib import contextmanager

import pytest
import torch

from fedtune.adapters.layout import Layout
from fedtune.node.sent_log import SENT, SentLog, read_sent
from fedtune.records.checkpoint import Checkpoint, load_latest
from fedtune.records.folder import RunFolder
from fedtune.records.lines import RoundRecord
from fedtune.round.screening.kept_replies import KeptReplies
from fedtune.round.screening.spool import Spool
from fedtune.training import inner_state


@contextmanager
def no_room(most=64):
    """No file of this process may be longer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


ROW = torch.arange(1000, dtype=torch.float32)
FULL = r"(could not be written: .*)?(File too large|I/O error)"


def test_a_row_that_does_not_fit_is_an_error_by_name_and_leaves_the_one_before(tmp_path):
    spool = Spool(tmp_path / "replies")
    spool.put(0, ROW)
    with no_room(), pytest.raises(OSError, match=rf"client-00000\d\.tmp {FULL}"):
        spool.put(1, ROW)
    with no_room(), pytest.raises(OSError, match=FULL):
        spool.put(0, 2 * ROW)
    assert spool.clients == [0]
    assert torch.equal(spool.row(0), ROW)
    spool.put(1, ROW)  # there is room again
    assert spool.clients == [0, 1]
    spool.empty()
    assert not list((tmp_path).rglob("*"))  # what was half written goes too


def checkpoint(round_):
    return Checkpoint(round_, {"anchor": ROW * round_}, 100 * round_, "layout")


def test_a_checkpoint_that_does_not_fit_leaves_those_before(tmp_path):
    for round_ in (1, 2):
        checkpoint(round_).save(tmp_path, keep=2)
    with no_room(), pytest.raises(OSError, match=rf"state\.safetensors {FULL}"):
        checkpoint(3).save(tmp_path, keep=2)
    assert load_latest(tmp_path).round == 2
    checkpoint(3).save(tmp_path, keep=2)
    assert load_latest(tmp_path).round == 3


def test_neither_a_kept_anchor_nor_a_clients_state_is_half_there(tmp_path):
    layout = Layout((("a", (1000,)),))
    kept = KeptReplies(tmp_path / "kept")
    with no_room(), pytest.raises(OSError, match=FULL):
        kept.put_anchor(1, ROW, layout)
    with pytest.raises(FileNotFoundError):
        kept.anchor(1)
    with no_room(), pytest.raises(OSError, match=FULL):
        inner_state.save({0: {"exp_avg": ROW}}, tmp_path / "states", round_=1, keep=1)
    assert inner_state.load(tmp_path / "states", before=9) is None


def test_a_line_of_the_record_that_does_not_fit_is_no_line(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append_metrics(RoundRecord.model_validate({"round": 0}))
    size = folder.metrics_bytes()
    with no_room(size + 10), pytest.raises(OSError, match="File too large"):
        folder.append_metrics(RoundRecord.model_validate({"round": 1}))
    folder.truncate_metrics(size)
    folder.append_metrics(RoundRecord.model_validate({"round": 1}))
    assert [json.loads(line)["round"] for line in folder.written_lines()] == [0, 1]


def test_a_node_that_cannot_write_down_what_it_sends_does_not_send_it(tmp_path):
    (tmp_path / "run").mkdir()
    log = SentLog(tmp_path)
    order = {"round": 1, "recipe": "{}", "manifest": "0" * 64, "record": "0" * 64}
    log.note(order, "r" * 64, "a" * 64)
    size = (tmp_path / SENT).stat().st_size
    with no_room(size + 10), pytest.raises(OSError, match="File too large"):
        log.note({**order, "round": 2}, "r" * 64, "a" * 64)
    log.note({**order, "round": 3}, "r" * 64, "a" * 64)
    assert [each.round for each in read_sent(tmp_path)] == [1, 3]
