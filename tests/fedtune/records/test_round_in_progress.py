"""The round in progress as another process reads it: whole, bounded, and of no weight to the run.

Not proven here: what a reader sees after a power cut; the lines are not synced.
"""

import json
import logging
import os
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from left_by_a_run import adapter_bytes, eval_records

from fedtune.messages.message import RecordDict
from fedtune.records.event_log import LOG, EventLog, LogState, read_event_log
from fedtune.records.events import (
    Ignored,
    Refused,
    Replied,
    RoundFinished,
    RoundStarted,
    RunStarted,
    RunStoppedError,
)
from fedtune.records.folder import RunFolder
from fedtune.runs.loop import Run
from fedtune.simulation import client
from fedtune.transport.local import LocalTransport

ROUND = [
    RoundStarted(1, 0, [0, 1, 2]),
    Replied(1, 2, 500, 3.5),
    Replied(1, 0, 400, None),
    Ignored(1, 0, "a second reply was ignored"),
    Refused(1, 1, "it sent no reply \u202e\n\x1b[2J"),
]
RETRY = [RoundStarted(1, 1, [1]), Replied(1, 1, 300, 4.0)]


def ticking():
    seconds = iter(range(1000, 2000))
    return lambda: float(next(seconds))


def test_events_pass_and_the_round_so_far_is_read_back(tmp_path):
    seen = []
    with EventLog(tmp_path, seen.append, clock=ticking()) as note:
        assert read_event_log(tmp_path) == LogState(began_at=1000.0)
        note(RunStarted([{"round": 0}]))
        for count, event in enumerate(ROUND + RETRY, start=1):
            note(event)
            told = read_event_log(tmp_path)
            assert [each for _, each in told.events] == (ROUND + RETRY)[:count]
            assert told.began_at == 1000.0
            assert told.begun
        # 1000 began, 1001 introduced, 1002 round 1 started, 1003 the first reply
        assert [at for at, _ in told.events[:2]] == [1002.0, 1003.0]
        note(RoundFinished({"round": 1}))
        note(second := RoundStarted(2, 0, [0]))
        assert [each for _, each in read_event_log(tmp_path).events] == [second]
    assert seen == [RunStarted([{"round": 0}]), *ROUND, *RETRY, RoundFinished({"round": 1}), second]
    assert read_event_log(tmp_path) == LogState(began_at=1000.0, begun=True)


@pytest.mark.parametrize(
    ("error", "reason", "resumable"),
    [
        (RunStoppedError("too few"), "too few", True),
        (RunStoppedError("other data", resumable=False), "other data", False),
        (KeyboardInterrupt(), "interrupted", True),
        (MemoryError(), "MemoryError", True),
        (OSError("x" * 5000), "x" * 1000, True),
    ],
)
def test_why_a_run_stopped_is_left_behind(tmp_path, error, reason, resumable):
    def stop():
        with EventLog(tmp_path, lambda _: None) as note:
            note(ROUND[0])
            raise error

    with pytest.raises(type(error)):
        stop()
    told = read_event_log(tmp_path)
    assert (told.stopped, told.resumable) == (reason, resumable)
    assert [event for _, event in told.events] == ROUND[:1]
    with EventLog(tmp_path, lambda _: None):  # resumed: the old word is gone
        assert read_event_log(tmp_path).stopped is None


def test_what_is_not_finite_is_null(tmp_path):
    with EventLog(tmp_path, lambda _: None) as note:
        note(Replied(1, 0, 5, float("nan")))
        assert "NaN" not in (tmp_path / LOG).read_text()
        assert read_event_log(tmp_path).events[0][1] == Replied(1, 0, 5, None)


def test_a_line_that_is_half_written_is_no_event(tmp_path):
    with EventLog(tmp_path, lambda _: None) as note:
        note(ROUND[0])
        note(ROUND[1])
        text = (tmp_path / LOG).read_bytes()
        for kept in range(len(text)):
            (tmp_path / LOG).write_bytes(text[:kept])
            events = [event for _, event in read_event_log(tmp_path).events]
            assert events == ROUND[: len(events)]


NUMBERS = st.floats() | st.integers() | st.none() | st.booleans() | st.text(max_size=5)
FIELDS = ("round", "client", "attempt", "clients", "upload_bytes", "train_loss", "reason")
LINES = st.fixed_dictionaries(
    {},
    optional={
        "at": NUMBERS,
        "kind": st.sampled_from(["Began", "Stopped", "Replied", "Refused", "RoundStarted"]),
        "of": st.dictionaries(st.sampled_from(FIELDS), NUMBERS | st.lists(NUMBERS)) | NUMBERS,
    },
).map(lambda line: json.dumps(line).encode())


@given(st.lists(LINES | st.binary(max_size=40)))
def test_whatever_lies_there_is_read_without_a_crash(tmp_path_factory, lines):
    folder = tmp_path_factory.mktemp("hostile")
    (folder / LOG).write_bytes(b"\n".join([*lines, b"[" * 100_000]))
    for at, event in read_event_log(folder).events:
        assert isinstance(at, float)
        assert event.round >= 0


def test_no_log_and_a_folder_in_its_place_tell_nothing(tmp_path):
    assert read_event_log(tmp_path / "gone") == LogState()
    (tmp_path / LOG).mkdir()
    assert read_event_log(tmp_path) == LogState()


def run_in(recipe, *, spoil=lambda path: None):
    folder, recipe = RunFolder.create(recipe)
    spoil(folder.path / LOG)
    seen = []

    def look(event):
        seen.append((event, [each for _, each in read_event_log(folder.path).events]))

    Run(recipe, folder, look).serve(LocalTransport(client.app, recipe.federation.num_clients))
    return folder, seen


def test_the_bits_of_a_run_are_those_without_a_log(tiny_recipe, caplog):
    """By a folder in the file's place the log is kept from writing a single line."""
    with_one, seen = run_in(tiny_recipe())
    without, unseen = run_in(tiny_recipe(), spoil=lambda path: path.mkdir())
    assert adapter_bytes(with_one) == adapter_bytes(without)
    assert eval_records(with_one) == eval_records(without)
    assert read_event_log(with_one.path).events == []
    assert len([record for record in caplog.records if LOG in record.message]) == 1
    assert all(told == [] for _, told in unseen)
    replies = [told for event, told in seen if isinstance(event, Replied)]
    assert len(replies) == 3 * 4
    assert [len(told) for told in replies] == [2, 3, 4, 5] * 3  # the round's start, and each reply


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
def test_a_full_disk_stops_no_run(tiny_recipe, caplog):
    recipe = tiny_recipe(federation={"num_rounds": 1})
    folder, _ = run_in(recipe, spoil=lambda path: path.symlink_to("/dev/full"))
    assert folder.adapter.is_dir()
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [LOG in record.getMessage() for record in warned] == [True]


def test_a_round_without_enough_replies_leaves_its_reason(tiny_recipe, lying):
    def broken(content: RecordDict):
        raise ValueError("my disk is gone")

    recipe = tiny_recipe(federation={"num_rounds": 1, "max_retries": 0})
    folder, recipe = RunFolder.create(recipe)
    app = lying(broken, liars=range(4))
    with pytest.raises(RunStoppedError):
        Run(recipe, folder).serve(LocalTransport(app, 4))
    told = read_event_log(folder.path)
    assert told.stopped.startswith("round 1 got too few good replies in 1 tries")
    assert sum(isinstance(event, Refused) for _, event in told.events) == 4


def test_who_works_in_a_folder_is_known_without_getting_in_the_way(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    folder = RunFolder(tmp_path)
    assert folder.at_work() is False
    with folder.locked():
        assert folder.at_work() is True
    assert folder.at_work() is False
    (tmp_path / ".lock").touch()  # as a killed process leaves it
    assert folder.at_work() is False
    assert RunFolder(tmp_path / "gone").at_work() is False

    looking = threading.Event()

    def look():
        with (tmp_path / ".lock").open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH)
            looking.set()
            time.sleep(0.05)

    onlooker = threading.Thread(target=look)
    onlooker.start()
    assert looking.wait(10)
    with folder.locked():  # waits the onlooker out
        pass
    onlooker.join()
