"""What a server's process tells a follower in another: every event once, in order, whole."""

import json

import pytest

from fedtune.records.event_log import LOG, EventLog, Follower
from fedtune.records.events import (
    Ignored,
    Refused,
    Replied,
    RoundFinished,
    RoundStarted,
    RunStarted,
    RunStoppedError,
    ignore,
)
from fedtune.records.folder import RunFolder
from fedtune.records.lines import RoundRecord


def whole(path):
    return EventLog(path, ignore, whole=True)


def test_every_event_comes_once_and_in_order(tmp_path):
    folder = RunFolder(tmp_path)
    base = folder.append_metrics(RoundRecord.model_validate({"round": 0, "eval": {"loss": 5.0}}))
    follower, seen, told = Follower(tmp_path), [], []
    assert list(follower.fresh()) == []
    with whole(tmp_path) as note:
        for round_ in (1, 2):
            events = [
                RoundStarted(round_, 0, [0, 1]),
                Replied(round_, 0, 100, 0.5),
                Replied(round_, 1, 100, None),
                Refused(round_, 1, 'it says "no"\nand \x1b[31m more'),
                Ignored(round_, 0, "twice"),
            ]
            started = [RunStarted([base])] if round_ == 1 else []
            for event in started + events:
                note(event)
                seen += follower.fresh() if round_ == 1 else []
            finished = RoundFinished(
                folder.append_metrics(RoundRecord.model_validate({"round": round_, "round_s": 1.0}))
            )
            note(finished)
            told += [*started, *events, finished]
    seen += follower.fresh()
    assert seen == told
    assert list(follower.fresh()) == []
    assert follower.done


def test_who_follows_late_is_told_the_history_as_it_was(tmp_path):
    folder = RunFolder(tmp_path)
    base = folder.append_metrics(RoundRecord.model_validate({"round": 0}))
    with whole(tmp_path) as note:
        note(RunStarted([base]))
        note(
            RoundFinished(first := folder.append_metrics(RoundRecord.model_validate({"round": 1})))
        )
    assert list(Follower(tmp_path).fresh()) == [RunStarted([base]), RoundFinished(first)]


def test_a_line_that_is_half_written_waits(tmp_path):
    follower = Follower(tmp_path)
    line = {"at": 1.0, "kind": "Ignored", "of": {"round": 1, "client": 0, "reason": "twice"}}
    text = json.dumps(line) + "\n"
    (tmp_path / LOG).write_text(text[:20])
    assert list(follower.fresh()) == []
    (tmp_path / LOG).write_text(text)
    assert list(follower.fresh()) == [Ignored(1, 0, "twice")]


@pytest.mark.parametrize("error", [RunStoppedError("too few", resumable=False), OSError("disk")])
def test_why_a_run_stopped_is_raised_where_it_is_followed(tmp_path, error):
    def stop():
        with whole(tmp_path):
            raise error

    with pytest.raises(type(error)):
        stop()
    with pytest.raises(RunStoppedError, match=str(error)) as stopped:
        list(Follower(tmp_path).fresh())
    assert stopped.value.resumable is getattr(error, "resumable", True)


def test_what_an_earlier_process_left_is_not_told_again(tmp_path):
    with whole(tmp_path):
        pass
    follower = Follower(tmp_path)
    follower.skip_old()
    assert list(follower.fresh()) == []
    assert not follower.done
