"""Proves what the events of a run add up to, with a clock that the test turns."""

import pytest

from fedtune.records.events import (
    Ignored,
    Refused,
    Replied,
    RoundFinished,
    RoundStarted,
    RunStarted,
)
from fedtune.report.progress import Progress


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def progress(clock):
    return Progress(3, clock)


def test_replies_may_come_in_any_order(progress, records):
    progress.take(RunStarted(records[:1]))
    progress.take(RoundStarted(1, 0, [0, 1, 2, 3]))
    for client in (3, 0, 2):
        progress.take(Replied(1, client, 1000, 4.0))
    progress.take(Refused(1, 3, "rubbish"))
    assert progress.clients == {0: "replied", 1: "waiting", 2: "replied", 3: "refused"}
    assert progress.upload_bytes == 3000
    progress.take(RoundFinished(records[1]))
    assert (progress.upload_bytes, progress.download_bytes) == (3000, 4000)
    assert progress.evals == [6.0, 5.5]
    assert progress.done == 1


def test_a_retry_asks_anew(progress):
    progress.take(RoundStarted(1, 0, [0, 1]))
    progress.take(Replied(1, 0, 10, 4.0))
    progress.take(RoundStarted(1, 1, [0, 1, 2]))
    assert progress.attempt == 1
    assert progress.clients == dict.fromkeys([0, 1, 2], "waiting")
    assert progress.losses == {}


def test_time_left_of_the_first_round_comes_from_its_replies(progress, clock):
    assert progress.left_s() is None
    progress.take(RoundStarted(1, 0, [0, 1, 2, 3]))
    assert progress.left_s() is None
    clock.now = 5.0
    progress.take(Replied(1, 2, 10, 4.0))
    # one of four in 5 s: a round takes 20 s; 15 s of it are left, and two more rounds
    assert progress.left_s() == pytest.approx(15 + 2 * 20)


def test_time_left_comes_from_the_median_round(progress, clock, records):
    progress.take(RunStarted(records[:3]))  # rounds of 4 s and 3 s: the median is 3.5 s
    assert progress.left_s() == pytest.approx(3.5)
    progress.take(RoundStarted(3, 0, [0, 1, 2, 3]))
    clock.now = 1.5
    assert progress.left_s() == pytest.approx(2.0)
    clock.now = 6.0
    assert progress.left_s() == 0.0
    progress.take(Replied(3, 0, 10, 4.0))
    assert progress.left_s() == pytest.approx(18.0)  # one of four in 6 s: 24 s in all
    progress.take(RoundFinished(records[3]))
    assert progress.left_s() == 0.0


def test_a_resumed_run_goes_on_where_it_stood(progress, records):
    progress.take(RunStarted(records[:3]))
    assert progress.done == progress.round == 2
    assert progress.upload_bytes == 6000


def test_an_absent_client_takes_one_line_of_the_refusals(progress):
    for round_ in range(1, 4):
        progress.take(Refused(round_, 7, "it did not introduce itself"))
        progress.take(Refused(round_, 8, f"reason {round_}"))
    lines = [(refusal.round, refusal.client) for refusal in progress.refusals]
    assert lines == [(1, 8), (2, 8), (3, 7), (3, 8)]


def test_what_is_ignored_is_noted_and_the_clients_reply_stands(progress):
    progress.take(RoundStarted(1, 0, [0, 1]))
    progress.take(Replied(1, 0, 10, 4.0))
    progress.take(Ignored(1, 0, "a second reply was ignored"))
    assert progress.clients == {0: "replied", 1: "waiting"}
    assert [*progress.refusals] == [Ignored(1, 0, "a second reply was ignored")]


def test_events_of_unknown_clients_and_bare_records_do_no_harm(progress):
    progress.take(RunStarted([{"round": 0}]))
    progress.take(Replied(1, 5, 10, None))
    progress.take(Refused(0, 6, "absent"))
    progress.take(RoundFinished({"round": 0}))
    assert progress.clients == {}
    assert progress.done == 0
