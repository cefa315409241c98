"""In what order a node trains and votes, whoever asks, under whatever run id."""

import pytest
from metered_node import FEW, Node, refused, train, vote

from fedtune.node import order_of_rounds as rounds
from fedtune.node.budget import DAY_S
from fedtune.node.order_of_rounds import name_of
from fedtune.recipe import parse_recipe


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


@pytest.fixture
def clock(node):
    return node.clock


def test_a_server_that_goes_back_or_begins_a_round_twice_is_refused(node):
    meter = node(max_tries=2)
    train(meter, 7, 2, "b")
    with refused("1 is over; this run is in round 2"):
        train(meter, 7, 1, "a")
    with refused("2 was begun from another anchor"):
        train(meter, 7, 2, "c")
    train(node(max_tries=2), 7, 2, "b")  # asked again; the worker was started anew
    with refused("max_tries: round 2 has had its 2 orders"):
        train(meter, 7, 2, "b")
    train(meter, 7, 4, "d")  # it was away for a round


@pytest.mark.parametrize("anchor", ["x" * 65, None, 7, b"a"])
def test_what_is_no_hash_of_an_anchor_is_not_kept(node, anchor):
    with refused("anchor_hash: needs 64 digits"):
        train(node(), 7, 1, anchor)


def test_one_day_tells_so_many_run_ids_apart(node, monkeypatch):
    monkeypatch.setattr(rounds, "MAX_RUN_IDS", 2)
    meter = node()
    for run_id in (7, 8, 7):
        vote(meter, run_id, 1)
    with refused("run id: 2 runs were told apart in this day"):
        vote(meter, 9, 1)


def test_two_run_ids_in_turn_reset_nothing(node):
    meter = node(max_day_runs=1)
    train(meter, 7, 1, "a")
    with refused("round 1 of this recipe had another anchor under another run id"):
        train(meter, 8, 1, "b")
    train(meter, 8, 1, "a")  # one that goes on after a stop has another run id
    train(meter, 8, 2, "b")
    with refused("max_day_runs: 1 runs have begun in this day"):
        train(node(max_day_runs=1), 7, 2, "c")
    with refused("1 is over"):
        train(meter, 8, 1, "a")
    with refused("round 3 of this recipe is new here"):
        train(meter, 9, 3, "a", train={"learning_rate": 0.5})


def test_each_round_from_another_anchor_begins_a_run_of_which_a_day_has_so_many(node, clock):
    meter = node(max_day_runs=3)
    for run_id in range(3):
        train(meter, run_id, 1, f"anchor {run_id}")
    for run_id in range(40):
        with refused("max_day_runs|another anchor"):
            train(meter, run_id, 1, "one more")
    clock.now += DAY_S
    train(node(max_day_runs=3), 99, 1, "another")


def test_what_the_server_alone_looks_at_is_no_other_recipe():
    plain = parse_recipe(FEW)
    same = parse_recipe(
        {
            **FEW,
            "output_dir": "elsewhere",
            "aggregator": {"name": "median", "f": 1},
            "federation": {**FEW["federation"], "max_retries": 9, "round_timeout_s": 5},
        }
    )
    other = parse_recipe({**FEW, "train": {"learning_rate": 0.5}})
    assert name_of(plain) == name_of(same) != name_of(other)


def test_a_run_of_many_days_keeps_its_rounds_order(node, clock):
    meter = node(max_day_runs=1)
    for round_ in range(1, 6):
        train(meter, 7, round_, f"anchor {round_}")
        clock.now += DAY_S / 2
    with refused("4 is over"):
        train(meter, 7, 4, "anchor 4")
    with refused("5 was begun from another anchor"):
        train(meter, 7, 5, "another")


def test_votes_are_counted_too_and_two_a_try_are_allowed(node):
    meter = node(max_tries=1, max_rounds=2)
    train(meter, 7, 1, "a")
    for round_ in (1, 1, 2):
        vote(meter, 7, round_)
    train(meter, 7, 2, "b")  # votes are not counted as orders to train
    with refused("1 is over; this run is in round 2"):
        vote(meter, 7, 1)
    vote(meter, 7, 2)
    with refused("round 2 has had its 2 orders to vote"):
        vote(meter, 7, 2)
    with refused("needs 1 to 2"):
        vote(meter, 7, 3)
    vote(meter, 8, 1)  # another run


@pytest.mark.parametrize("round_", [0, 10, -1, True, 1.0, "1", None])
def test_a_round_that_is_none_is_refused(node, round_):
    with refused("needs 1 to 9"):
        train(node(), 7, round_, "a")
