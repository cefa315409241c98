"""What a server's process tells a follower in another: every event once, in order, whole."""

import json

import pytest

from fedtune.records.event_log import NAME, EventLog, Follower
from fedtune.records.events import (
    Ignored,
    Refused,
    Replied,
    RoundFinished,
    RoundStarted,
    RunStarted,
    RunStoppedError,
)

EVENTS = [
    RunStarted([{"round": 0}]),
    RoundStarted(1, 0, [0, 1]),
    Replied(1, 0, 100, 0.5),
    Replied(1, 1, 100, None),
    Refused(1, 1, 'it says "no"\nand \x1b[31m more'),
    Ignored(1, 0, "twice"),
    RoundFinished({"round": 1}),
]


def test_every_event_comes_once_and_in_order(tmp_path):
    follower, seen = Follower(tmp_path), []
    assert list(follower.fresh()) == []
    with EventLog(tmp_path) as log:
        for event in EVENTS:
            log.note(event)
            seen += follower.fresh()
        log.ended()
    assert seen == EVENTS
    assert list(follower.fresh()) == []
    assert follower.done


def test_a_line_that_is_half_written_waits(tmp_path):
    follower = Follower(tmp_path)
    line = json.dumps({"kind": "RoundFinished", "of": {"record": {"round": 1}}}) + "\n"
    (tmp_path / NAME).write_text(line[:20])
    assert list(follower.fresh()) == []
    (tmp_path / NAME).write_text(line)
    assert list(follower.fresh()) == [RoundFinished({"round": 1})]


def test_why_a_run_stopped_is_raised_where_it_is_followed(tmp_path):
    with EventLog(tmp_path) as log:
        log.stopped(RunStoppedError("too few", resumable=False))
    with pytest.raises(RunStoppedError, match="too few") as stopped:
        list(Follower(tmp_path).fresh())
    assert stopped.value.resumable is False


def test_what_no_one_expected_is_told_too(tmp_path):
    with pytest.raises(ZeroDivisionError), EventLog(tmp_path):
        raise ZeroDivisionError("of the server")
    with pytest.raises(RunStoppedError, match="of the server"):
        list(Follower(tmp_path).fresh())


def test_what_an_earlier_process_left_is_not_told_again(tmp_path):
    with EventLog(tmp_path) as log:
        log.ended()
    follower = Follower(tmp_path)
    follower.skip_old()
    assert list(follower.fresh()) == []
    assert not follower.done
