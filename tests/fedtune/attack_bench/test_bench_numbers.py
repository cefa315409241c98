"""From results to numbers, worked by hand: retained gain, tax, intervals, worst cases.

Not proven here: that runs give these results (test_bench_runs).
"""

import math

import pytest
from hand_made_bench import cell_of, ending, summary_of

from fedtune.attack_bench.interval import T_975, stat
from fedtune.records.bench_figures import Stat


def test_an_interval_by_hand():
    # 1, 2, 6: mean 3, squares 4 + 1 + 9 = 14, s = sqrt(14 / 2) = 2.6458; t at 2 degrees is 4.303:
    #   4.303 * 2.6458 / sqrt(3) = 6.573
    told = stat({0: 1.0, 3: 2.0, 5: 6.0, 9: None})
    assert told.mean == 3.0
    assert told.low == pytest.approx(3 - 6.573, abs=2e-3)
    assert told.high == pytest.approx(3 + 6.573, abs=2e-3)
    assert told.values == {"0": 1.0, "3": 2.0, "5": 6.0}
    assert stat({4: 0.25}) == Stat(mean=0.25, low=None, high=None, values={"4": 0.25})
    assert stat({}) is None
    assert stat({0: None}) is None


@pytest.mark.parametrize("df", [1, 2, 5, 12, 30])
def test_the_quantiles_against_a_numeric_integral(df):
    """The density of Student's t, added up in small steps to the quantile: 0.475 above 0."""
    scale = math.gamma((df + 1) / 2) / math.gamma(df / 2) / math.sqrt(df * math.pi)
    steps = 20_000
    h = T_975[df - 1] / steps
    total = sum((1 + ((i + 0.5) * h) ** 2 / df) ** (-(df + 1) / 2) for i in range(steps))
    assert scale * h * total == pytest.approx(0.475, abs=2e-5)


def test_retained_gain_by_hand():
    _, table = summary_of()
    # (base - loss) / (base - oracle): (5 - 7) / 2 = -1 and (6 - 6) / 2 = 0
    assert cell_of(table, "alie", "a")["retained"]["values"] == {"0": -1.0, "1": 0.0}
    # (5 - 3.5) / 2 = 0.75 and (6 - 4.1) / 2 = 0.95
    retained = cell_of(table, "alie", "b")["retained"]
    assert retained["mean"] == pytest.approx(0.85)
    # s = 0.1 sqrt(2), half = 12.706 * 0.1 sqrt(2) / sqrt(2) = 1.2706
    assert retained["high"] - retained["mean"] == pytest.approx(1.2706)
    assert (table["base"]["mean"], table["oracle"]["mean"]) == (5.5, 3.5)
    assert table["mean_of_all"]["mean"] == 3.0


def test_tax_by_hand():
    _, table = summary_of()
    a, b, c = table["defences"]
    assert a["tax"]["mean"] == 0.0
    # 1 - (5 - 2.75) / (5 - 2.5) = 0.1 at both seeds
    assert b["tax"]["values"] == pytest.approx({"0": 0.1, "1": 0.1})
    assert c["tax"] is None
    assert "bulyan needs n >= 4f + 3" in c["tax_message"]


def test_the_worst_attack_of_a_defence():
    _, table = summary_of()
    a, b, c = table["defences"]
    assert a["worst"] == {"attack": "alie", "kept": -0.5, "stopped": False, "diverged": False}
    # b: alie 0.85; nan (5-3.2)/2 = 0.9 and (6-4.4)/2 = 0.8: 0.85 too; noise 1 and 0.9
    assert b["worst"]["kept"] == pytest.approx(0.85)
    assert c["worst"] is None


def test_a_column_of_fewer_seeds_is_whole_with_these():
    _, table = summary_of(fewer_seeds={"b": 1})
    told = cell_of(table, "alie", "b")
    assert told["retained"]["values"] == {"0": 0.75}
    assert (told["seeds"]["missing"], told["message"]) == (0, "")
    a, b, _ = table["defences"]
    assert (a["num_seeds"], b["num_seeds"], b["tax_message"]) == (2, 1, "")
    # paired: of alie on a, by seed 0 alone, 0.75 + 1
    assert cell_of(table, "alie", "a")["behind_best"]["values"] == {"0": 1.75}


def test_behind_the_best_is_paired_by_seed():
    _, table = summary_of()
    assert cell_of(table, "alie", "b")["behind_best"]["values"] == {"0": 0.0, "1": 0.0}
    # b - a of alie: 0.75 + 1 = 1.75 and 0.95 - 0 = 0.95: mean 1.35
    behind = cell_of(table, "alie", "a")["behind_best"]
    assert behind["values"] == pytest.approx({"0": 1.75, "1": 0.95})
    assert behind["mean"] == pytest.approx(1.35)


def test_a_seed_that_stopped_counts_as_nothing_kept_and_is_told():
    _, table = summary_of(ending("stopped", ("nan", "b", 1)))
    cell = cell_of(table, "nan", "b")
    assert cell["status"] == "done"
    assert (cell["seeds"]["done"], cell["seeds"]["stopped"]) == (1, 1)
    assert cell["message"] == "it stopped; 1 of 2 seeds stopped"
    assert cell["retained"]["values"] == pytest.approx({"0": 0.9})  # the seeds that are done
    # (0.9 + 0) / 2
    assert table["defences"][1]["worst"] == {
        "attack": "nan", "kept": pytest.approx(0.45), "stopped": True, "diverged": False,
    }  # fmt: skip


def test_a_cell_whose_seeds_all_stopped_counts_as_0():
    _, table = summary_of(ending("stopped", ("nan", "b", 0), ("nan", "b", 1)))
    cell = cell_of(table, "nan", "b")
    assert (cell["status"], cell["retained"], cell["kept"]) == ("stopped", None, 0.0)
    assert cell["message"] == "it stopped"


@pytest.mark.parametrize("seeds", [(0,), (1,), (0, 1)])
def test_what_diverged_is_the_worst_of_all(seeds):
    """A model that answers with no number is no half of a good one: a at alie keeps -0.5."""
    _, table = summary_of(ending("diverged", *(("nan", "a", seed) for seed in seeds)))
    cell = cell_of(table, "nan", "a")
    assert cell["status"] == ("diverged" if len(seeds) == 2 else "done")
    assert cell["seeds"]["diverged"] == len(seeds)
    assert cell["kept"] is None
    assert table["defences"][0]["worst"] == {
        "attack": "nan", "kept": None, "stopped": False, "diverged": True,
    }  # fmt: skip


def test_a_backdoor_counts_by_the_lesser_of_gain_and_what_it_was_kept_from():
    def obey(told):
        if told["attack"] == "noise":
            return told | {"backdoor": {"before": 0.125, "after": 0.875}}
        return told

    _, table = summary_of(obey)
    # retained (1 + 0.9) / 2 = 0.95; excess 0.875 - 0.125 = 0.75, so 1 - 0.75 = 0.25 counts
    assert cell_of(table, "noise", "b")["retained"]["mean"] == pytest.approx(0.95)
    assert cell_of(table, "noise", "b")["kept"] == 0.25
    assert table["defences"][1]["worst"]["attack"] == "noise"


def test_the_tax_of_a_run_that_stopped_is_all_and_of_one_that_diverged_is_told():
    _, table = summary_of(ending("stopped", ("none", "b", 0)))
    assert table["defences"][1]["tax"]["values"] == pytest.approx({"0": 1.0, "1": 0.1})
    _, table = summary_of(ending("diverged", ("none", "b", 0), ("none", "b", 1)))
    assert table["defences"][1]["tax"] is None
    assert table["defences"][1]["tax_message"] == "it diverged"


def test_what_did_not_run_has_no_number():
    _, table = summary_of()
    refused = cell_of(table, "alie", "c")
    assert (refused["status"], refused["retained"], refused["behind_best"]) == (
        "refused",
        None,
        None,
    )
    missing = cell_of(table, "noise", "a")  # it may run, and has no result
    assert (missing["status"], missing["retained"]) == ("missing", None)


def test_cells_that_are_missing_or_crashed():
    told, table = summary_of(lambda told: None if told["attack"] == "alie" else told)
    assert cell_of(table, "alie", "b")["status"] == "missing"
    assert told["cells"]["of"] == 28
    assert told["cells"]["done"] == 26 - 6  # noise on a has not run

    def crash(told):
        mine = (told["attack"], told["defence"], told["seed"]) == ("alie", "b", 0)
        return told | {"status": "crashed", "message": "oh"} if mine else told

    told, table = summary_of(crash)
    cell = cell_of(table, "alie", "b")
    assert cell["retained"]["values"] == pytest.approx({"1": 0.95})
    assert cell["message"] == "oh; 1 of 2 seeds crashed"
    assert told["cells"]["done"] == 25
    told, table = summary_of(ending("crashed", ("alie", "b", 0), ("alie", "b", 1)))
    cell = cell_of(table, "alie", "b")
    assert (cell["status"], cell["kept"]) == ("crashed", None)
    assert table["defences"][1]["worst"]["attack"] == "nan"  # what crashed tells nothing

    def lack(told):
        return None if (told["attack"], told["defence"], told["seed"]) == ("alie", "b", 1) else told

    cell = cell_of(summary_of(lack)[1], "alie", "b")
    assert cell["message"] == "1 of 2 seeds not run"


def test_an_oracle_that_gains_nothing_gives_no_share():
    def flat(told):
        return told | {"loss": told["base"]} if told["attack"] == "oracle" else told

    _, table = summary_of(flat)
    assert cell_of(table, "alie", "b")["retained"] is None


def test_a_seed_whose_oracle_gains_nothing_is_told_and_counted():
    def flat(told):
        mine = told["attack"] == "oracle" and told["seed"] == 1
        return told | {"loss": told["base"]} if mine else told

    _, table = summary_of(flat)
    cell = cell_of(table, "alie", "b")
    assert cell["retained"]["values"] == pytest.approx({"0": 0.75})
    assert cell["without_oracle"] == 1
    assert cell["message"] == (
        "1 of 2 seeds do not count: their oracle gained nothing, or has no result"
    )
