"""Retained gain at every round, and each honest client's share of its oracle's, by hand.

Not proven here: that runs record what this reads (test_bench_training).
"""

import pytest
from hand_made_bench import cell_of, ending, summary_of

from fedtune.attack_bench.gains import client_shares, gain_curve, least_of, worst_honest
from fedtune.records.bench_figures import Least
from fedtune.records.bench_result import Outcome

# From base 5 the oracle goes to 4.9, 4, 3.5, 3: its gain is 0.1, 1, 1.5 and 2 at the end.
CURVE = [(0, 5.0), (1, 4.9), (2, 4.0), (3, 3.5), (4, 3.0)]
ORACLE = Outcome(base=5.0, loss=3.0, curve=CURVE)


def but(outcome, **facts):
    """The same with other facts."""
    return Outcome.model_validate(outcome.model_dump() | facts)


def run(*losses, status="done"):
    curve = [(0, 5.0), *enumerate(losses, 1)]
    return Outcome(status=status, base=5.0, loss=losses[-1], curve=curve)


def test_the_gain_of_each_round_against_the_oracle_of_the_same_round():
    # round 1: the oracle has 0.1 of 2, under a tenth: left out, though the run is far below there
    # (5 - 4.5) / 1 = 0.5, (5 - 5.75) / 1.5 = -0.5, (5 - 3.2) / 2 = 0.9
    curve = gain_curve(run(9.0, 4.5, 5.75, 3.2), ORACLE)
    assert [at for at, _ in curve] == [2, 3, 4]
    assert [kept for _, kept in curve] == pytest.approx([0.5, -0.5, 0.9])
    assert least_of({7: curve}) == Least(kept=-0.5, round=3, seed=7)


def test_a_round_of_which_the_oracle_has_made_a_tenth_counts():
    oracle = but(ORACLE, curve=[(0, 5.0), (1, 4.75), (2, 3.0)])  # 0.25 of 2 is an eighth
    assert gain_curve(run(4.75, 3.0), oracle) == [(1, 1.0), (2, 1.0)]


def test_the_least_is_over_all_seeds_and_no_number_is_less_than_any():
    curves = {0: [(1, 0.9), (2, 0.8)], 1: [(1, 0.25), (2, 0.95)]}
    assert least_of(curves) == Least(kept=0.25, round=1, seed=1)
    assert least_of(curves | {2: [(1, None)]}) == Least(kept=None, round=1, seed=2)
    assert least_of({}) is None
    assert gain_curve(run(4.5, None, 4.0, 3.0), ORACLE)[0] == (2, None)


def test_what_has_no_oracle_or_no_end_has_no_gains():
    assert gain_curve(run(4.0), None) == []
    assert gain_curve(run(4.0), but(ORACLE, loss=5.0)) == []
    assert gain_curve(run(4.0), but(ORACLE, loss=None)) == []
    assert gain_curve(run(4.0, status="stopped"), ORACLE) == []


def own(**losses):
    """By client, before and after."""
    return {
        client.removeprefix("c"): {"before": before, "after": after}
        for client, (before, after) in losses.items()
    }


IDEAL = but(ORACLE, own=own(c0=(5.0, 3.0), c1=(6.0, 5.0), c2=(4.0, 2.0), c3=(4.0, 3.95)))


def test_the_share_of_each_client_by_hand():
    mine = but(run(3.0), own=own(c0=(5.0, 3.5), c1=(6.0, 6.25), c2=(4.0, 2.0), c3=(4.0, 9.0)))
    # gains of the oracle: 2, 1, 2, 0.05. The median is 1.5, a tenth of it 0.15: 3 has no share.
    # 1.5 / 2 = 0.75; -0.25 / 1; 2 / 2
    assert client_shares(mine, IDEAL) == pytest.approx({0: 0.75, 1: -0.25, 2: 1.0})
    names = {"client_names": ["a", "topic code", "b", "c"]}
    assert worst_honest({4: but(mine, **names)}, {4: IDEAL}) == Least(
        kept=-0.25, client=1, name="topic code", seed=4
    )
    assert worst_honest({4: mine}, {4: IDEAL}).name == ""


def test_a_client_whose_loss_is_no_number_is_the_worst():
    mine = but(run(3.0), own=own(c0=(5.0, None), c1=(6.0, 9.0)))
    found = worst_honest({0: mine}, {0: IDEAL})
    assert (found.client, found.kept) == (0, None)


def test_results_from_before_have_no_shares():
    assert client_shares(run(3.0), IDEAL) == {}
    assert client_shares(but(run(3.0), own=own(c0=(None, 3.5))), ORACLE) == {}
    unknown = but(ORACLE, own=own(c0=(None, 3.0)))
    assert client_shares(but(run(3.0), own=own(c0=(None, 3.5))), unknown) == {}
    assert worst_honest({0: run(3.0)}, {0: ORACLE}) is None


def with_curves(told):
    """Bases 5 and 6, each run half way there in round 1; b at alie overshoots in round 1."""
    if told["status"] != "done":
        return told
    middle = (told["base"] + told["loss"]) / 2
    if (told["attack"], told["defence"]) == ("alie", "b"):
        middle = told["base"] + 0.25
    curve = [[0, told["base"]], [1, middle], [2, told["loss"]]]
    ideal = told["base"] - (2.0 if told["attack"] == "oracle" else 1.5)
    return told | {"curve": curve, "own": {"7": {"before": told["base"], "after": ideal}}}


def test_a_cell_and_its_defence_say_the_least_and_where():
    _, table = summary_of(with_curves)
    cell = cell_of(table, "alie", "b")
    # the oracle is 1 of 2 there in round 1: -0.25 / 1; the ends are 0.75 and 0.95
    least = least_of({0: [(1, -0.25)]}).model_dump()
    assert cell["least"] == least
    assert cell["gain_curves"][0]["points"] == [[1, -0.25], [2, 0.75]]
    assert table["defences"][1]["least"] == cell["least"] | {"attack": "alie"}
    # a at alie ends at 7 and 6, from 5 and 6: below its base at seed 0, and no gain at seed 1
    assert cell_of(table, "alie", "a")["worse_than_base"] == [0]
    assert cell["worse_than_base"] == []
    worst = Least(kept=0.75, client=7, seed=0).model_dump()  # 1.5 / 2
    assert cell["worst_honest"] == worst
    assert table["defences"][1]["worst_honest"] == worst | {"attack": "alie"}
    # with no attacker against the mean of all, which keeps as much
    assert table["defences"][1]["worst_honest_free"] == worst | {"kept": 1.0}


def test_a_run_that_diverged_ends_worse_than_its_base():
    _, table = summary_of(ending("diverged", ("nan", "b", 1)))
    assert cell_of(table, "nan", "b")["worse_than_base"] == [1]


def test_the_time_of_all_runs_is_added_up_once():
    def timed(told):
        key = told["attack"] + told["defence"] + str(told["seed"])
        return told | {"seconds": 2.5, "cell": key if told["status"] == "done" else ""}

    told, _ = summary_of(timed)
    assert told["seconds"] == 2.5 * 2 * 9  # nine cells with losses, two seeds
    again, _ = summary_of(lambda line: timed(line) | {"cell": "one"})
    assert again["seconds"] == 2.5
