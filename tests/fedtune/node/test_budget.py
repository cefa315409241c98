"""A node's day: what is used of it outlives the worker, the run and a clock that is set back."""

import os
import signal
import subprocess
import sys
import time

import pytest
from metered_node import Node, refused, train, words

from fedtune.deployment.node import NodeConfig
from fedtune.node.budget import DAY_S, FILE, Ledger, Working, look_up, make_state
from fedtune.node.limits import exceeded, whole_run
from fedtune.recipe import load_recipe


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


@pytest.fixture
def clock(node):
    return node.clock


def test_orders_of_every_kind_count_over_all_runs_and_workers(node):
    meter = node(max_day_orders=4)
    for run_id, kind in ((7, "query"), (8, "evaluate"), (9, "train.reveal")):
        with meter.order():
            meter.charge(kind, run_id, words(1, "a"))
    meter = node(max_day_orders=4)  # another process, as after a kill
    with refused("needs 1 to 9"), meter.order():  # what is refused counts too
        meter.charge("train", 10, words(0, "a"))
    with refused("max_day_orders: all 4 of this day are used; again in 24.0 h"), meter.order():
        raise AssertionError("nothing is begun")
    with refused("max_day_orders"), node(max_day_orders=4).order():
        raise AssertionError("nothing is begun")


def test_tokens_count_over_all_runs_and_an_order_that_does_not_fit_is_refused(node):
    each = 4 * 8 * 1024  # steps, rows, tokens of a row
    meter = node(max_day_tokens=2 * each)
    train(meter, 7, 1, "a")
    with refused("max_day_tokens: .*this order may take 524,288"), meter.order():
        meter.charge("evaluate", 8, words(1, "a"))  # 512 rows of 1024
    train(meter, 8, 1, "a")
    with refused("max_day_tokens: all 65,536 of this day are used"), meter.order():
        raise AssertionError("nothing is begun")


def test_seconds_count_and_what_is_left_bounds_the_next_order(node, monkeypatch):
    meter = node(max_day_s=10, max_order_s=8)
    moments = iter((0.0, 7.0, 7.0, 12.0))
    monkeypatch.setattr(time, "monotonic", lambda: next(moments))
    with meter.order():
        assert node.ledger.read().working.limit_s == 8
    with meter.order():
        assert node.ledger.read().working.limit_s == 3
    assert node.ledger.read().seconds == 12
    with refused("max_day_s: all 10 of this day are used"), meter.order():
        raise AssertionError("nothing is begun")


def test_a_day_ends_after_24_hours_and_a_clock_that_is_set_back_gives_nothing(node, clock):
    meter = node(max_day_orders=1)
    with meter.order():
        pass
    for moved in (-10 * DAY_S, 0.0, DAY_S - 1):
        clock.now = 1_000_000.0 + moved
        with refused("max_day_orders"), meter.order():
            raise AssertionError("nothing is begun")
    clock.now = 1_000_000.0 + DAY_S
    with meter.order():
        pass
    clock.now = 1_000_000.0  # back into the day before
    with refused("max_day_orders"), meter.order():
        raise AssertionError("nothing is begun")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text(""),
        lambda path: path.write_bytes(path.read_bytes()[:40]),
        lambda path: path.write_text("{}"),
        lambda path: path.write_text(path.read_text().replace('"orders":1', '"orders":-99')),
        lambda path: path.write_text(path.read_text().replace('"tokens":0', '"tokens":NaN')),
    ],
)
def test_a_book_that_is_gone_or_damaged_is_a_day_that_is_spent(node, clock, spoil):
    meter = node()
    with meter.order():
        pass
    spoil(node.folder / "run" / FILE)
    for hours in (0, 1, 23):
        clock.now = 1_000_000.0 + hours * 3600
        told = f"is (gone|damaged): this day counts as spent; again in {24 - hours}.0 h"
        with refused(told), meter.order():
            raise AssertionError("nothing is begun")
    clock.now = 1_000_000.0 + DAY_S  # by itself, a day after it was found
    with node().order():
        pass


def test_an_order_that_dies_on_a_clock_that_was_set_back_is_charged_in_full(node, clock):
    meter = node(max_order_s=100)
    clock.now -= 3600
    with meter.order():
        left_open = node.ledger.read().working
    with node.ledger.change() as book:
        book.seconds, book.working = 0.0, left_open
    clock.now += 5
    node(max_order_s=100)
    assert node.ledger.read().seconds == 100


def test_the_owner_can_begin_a_new_day_and_rounds_keep_their_anchors(node):
    meter = node(max_day_orders=1)
    train(meter, 7, 2, "b")
    node.ledger.refill()
    with refused("2 was begun from another anchor"), meter.order():
        meter.charge("train", 7, words(2, "c"))


def test_only_a_new_folder_has_a_fresh_book(tmp_path):
    assert not look_up(tmp_path).lost
    state = make_state(tmp_path)
    assert state.stat().st_mode & 0o777 == 0o700
    assert not look_up(tmp_path).lost
    (state / FILE).unlink()
    make_state(tmp_path)
    assert look_up(tmp_path).lost == "run/budget.json is gone"


def test_an_order_whose_worker_died_counts_from_the_next_start(node, clock):
    for passed, charged in ((5.0, 5.0), (500.0, 100.0), (-5.0, 100.0)):
        node.ledger.refill()
        with node.ledger.change() as book:
            book.working = Working(since=clock.now - passed, limit_s=100)
        node()
        assert node.ledger.read().seconds == charged
        assert node.ledger.read().working is None


# One order after another, each with a line before it is worked on; killed in the middle.
BUSY = """
import sys
from pathlib import Path
from fedtune.node.budget import Ledger, Working
ledger = Ledger(Path(sys.argv[1]))
while True:
    with ledger.change() as book:
        book.orders += 1
        book.tokens += 1000
        done = book.orders
    print(done, flush=True)
"""


@pytest.mark.parametrize("seed", range(3))
def test_what_was_begun_before_a_kill_is_in_the_book(tmp_path, seed):
    make_state(tmp_path)
    command = [sys.executable, "-c", BUSY, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while int(process.stdout.readline()) < 5 * (seed + 1):
            pass
        os.kill(process.pid, signal.SIGKILL)
        rest = [int(line) for line in process.stdout.read().split()]
    book = Ledger(tmp_path).read()
    assert not book.lost
    assert book.orders >= max(rest, default=5 * (seed + 1))
    assert book.tokens == 1000 * book.orders


def test_a_run_of_500_rounds_fits_into_one_day_and_a_longer_one_where_the_owner_says_so(node):
    def of(rounds):
        keys = [f"federation.num_rounds={rounds}", "federation.commit_then_reveal=true"]
        return load_recipe("three_nodes", keys)

    config, book = NodeConfig(), node.ledger.read()
    orders, tokens = whole_run(of(500), config, book)
    # who it is; an order and one to show, each round; measured before the first and after the last
    assert (orders.amount, orders.most) == (1 + 500 * 2 + 2, 2000)
    assert tokens.amount == 500 * 8 * 8 * 1024 + 2 * 256 * 1024 <= tokens.most
    assert not list(exceeded(of(500), config))
    assert list(exceeded(of(5000), config)) == ["num_rounds: 5,000 of at most 1,000 (max_rounds)"]
    more = NodeConfig(max_rounds=5000, max_day_orders=20_000)
    assert not list(exceeded(of(5000), more))
    assert all(use.amount <= use.most for use in whole_run(of(5000), more, book))
