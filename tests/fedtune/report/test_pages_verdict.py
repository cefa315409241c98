"""Proves which defence is named and where none is said to hold, on tables made by hand."""

import pytest
from small_bench import (
    ATTACKS,
    GAINS,
    TAXES,
    counts,
    ended,
    judged_again,
    small,
    stat,
    summary,
    table,
)

from fedtune.records.bench_summary import read_summary
from fedtune.report.pages.verdict import choose, judge, ranked


def read_tables(said):
    return read_summary(said).tables


def test_a_defence_with_gaps_is_not_recommended():
    (only,) = read_tables(small())
    # 1 - 0.4 obeyed is the worst case of both; strong's tax is lower
    assert [one.label for one in ranked(only)] == ["strong", "gaps", "mean"]
    assert choose([only]) == "strong"  # gaps holds more, 3 to 2, and one cell is not run


def test_a_defence_of_fewer_seeds_is_not_recommended():
    made = table({"a": [0.99] * 5, "b": [0.95] * 5}, {"a": 0.0, "b": 0.0})
    assert choose(read_tables(summary(made))) == "a"
    made["defences"][0]["num_seeds"], made["defences"][1]["num_seeds"] = 1, 3
    assert choose(read_tables(summary(made))) == "b"


def test_where_none_holds_and_where_only_the_choice_does_not():
    (only,) = read_tables(small())
    verdict = judge(only, "strong")
    # The trigger is obeyed in 40 % by all: none stops it. launder: 0.899 is under 0.9, gaps has
    # 0.95. search: 0.85 under 0.9, gaps has 0.92. flip and nan are held.
    assert [leak.attack for leak in verdict.none_holds] == ["trigger"]
    assert [(leak.attack, leak.best.defence) for leak in verdict.own_leaks] == [
        ("search", "gaps"),
        ("launder", "gaps"),
    ]
    assert verdict.untested == ()
    assert judge(only, "gaps").untested == ("flip",)


def test_a_backdoor_is_judged_against_what_the_base_obeyed():
    made = small()
    for cell in made["tables"][0]["cells"]:
        if cell["attack"] == "trigger":
            cell["backdoor_before"] = 0.3  # 0.4 is a tenth more: stopped
    (only,) = read_tables(judged_again(made))
    assert judge(only, "strong").none_holds == ()
    assert only.defences[1].rank == 0.85  # search, and no more the trigger


def test_the_choice_is_the_best_worst_case_over_all_fractions():
    # a: 0.95 then 0.5; b: 0.9 then 0.7. One does not know beforehand how many lie.
    taxes, quiet = {"a": 0.0, "b": 0.0}, {"obeyed": 0.0}
    first = table({"a": [0.95] * 5, "b": [0.9] * 5}, taxes, **quiet)
    second = table({"a": [0.5] * 5, "b": [0.7] * 5}, taxes, attackers=3, **quiet)
    tables = read_tables(summary(first, second))
    assert choose(tables) == "b"
    assert judge(tables[0], "b").best_here.label == "a"


def test_ties_go_to_the_lower_tax():
    tied = table({"a": [0.95] * 5, "b": [0.95] * 5}, {"a": 0.03, "b": 0.01})
    tables = read_tables(summary(tied))
    assert choose(tables) == "b"
    assert ranked(tables[0])[0].label == "b"
    tied["defences"][1]["tax"] = None  # not known is no bargain
    assert choose(read_tables(summary(tied))) == "a"


def test_more_attacks_held_come_before_a_better_worst_case():
    """A backdoor that nobody stops would else choose by noise: a obeys 0.50, b 0.48."""
    made = table({"a": [0.97] * 5, "b": [0.6] * 5}, {"a": 0.01, "b": 0.01}, obeyed=0.5)
    cells = {(cell["attack"], cell["defence"]): cell for cell in made["cells"]}
    cells["trigger", "b"].update(backdoor=stat(0.48))
    made = judged_again(summary(made))
    (only,) = read_tables(made)
    # 1 - 0.5 and 1 - 0.48: b's worst case is the better one, and it holds nothing
    assert [one.label for one in ranked(only)] == ["b", "a"]
    assert choose([only]) == "a"
    verdict = judge(only, "a")
    assert (verdict.held, verdict.tried) == (4, 5)


def test_a_backdoor_that_is_obeyed_is_in_the_worst_case():
    """Both hold the other four and keep all of the gain; a obeys in 90 %, b in 40 %."""
    made = table({"a": [1.0] * 5, "b": [0.95] * 5}, {"a": 0.0, "b": 0.05})
    for cell in made["cells"]:
        if (cell["attack"], cell["defence"]) == ("trigger", "a"):
            cell["backdoor"] = stat(0.9)
    assert choose(read_tables(judged_again(summary(made)))) == "b"


def test_a_run_that_diverged_is_worse_than_any_number():
    """a keeps -3 of the gain under flip, b's loss is no number: neither holds it."""
    made = table({"a": [-3.0] + [0.95] * 4, "b": [0.0] + [0.95] * 4}, {"a": 0.0, "b": 0.0})
    for cell in made["cells"]:
        if (cell["attack"], cell["defence"]) == ("flip", "b"):
            cell.update(ended("diverged"))
    (only,) = read_tables(judged_again(summary(made)))
    assert choose([only]) == "a"
    assert [one.label for one in ranked(only)] == ["a", "b"]
    assert judge(only, "b").behind[0].best.defence == "a"


def test_a_seed_of_several_that_broke_off_is_told_and_does_not_hold():
    made = small()
    for cell in made["tables"][0]["cells"]:
        if (cell["attack"], cell["defence"]) == ("flip", "strong"):
            cell.update(seeds=counts(done=2, stopped=1), retained=stat(0.96, 0.98), kept=0.647)
    (only,) = read_tables(made)
    cell = only.grid["strong", "flip"]
    assert cell.broken == "1 of 3 stopped"
    assert cell.tested
    assert not cell.holds
    assert cell.rank == 0.647


@pytest.mark.parametrize("status", ["stopped", "diverged"])
def test_a_run_that_broke_off_is_no_answer_to_a_backdoor(status):
    """It obeys no trigger, for it answers nothing: the best is one that ended, obeying 40 %."""
    made = small()
    for cell in made["tables"][0]["cells"]:
        if (cell["attack"], cell["defence"]) == ("trigger", "mean"):
            cell.update(ended(status), backdoor=None)
    (only,) = read_tables(judged_again(made))
    (leak,) = judge(only, "strong").none_holds
    assert (leak.attack, leak.best.status) == ("trigger", "done")


def test_where_another_keeps_clearly_more_it_is_named():
    # flip: 0.9 holds, and 1.05 is 0.15 more; search: neither holds, 0.5 to 0.7; launder: 0.08
    gains = {"a": [0.9, 0.5, 0.92, 0.95, 0.95], "b": [1.05, 0.7, 1.0, 0.5, 0.5]}
    (only,) = read_tables(summary(table(gains, {"a": 0.0, "b": 0.0}, obeyed=0.0)))
    assert choose([only]) == "a"
    verdict = judge(only, "a")
    assert [(leak.attack, leak.best.defence) for leak in verdict.behind] == [
        ("flip", "b"),
        ("search", "b"),
    ]
    assert verdict.own_leaks == ()


def test_a_run_that_broke_off_does_not_hold_and_is_no_gap():
    made = small()
    cells = made["tables"][0]["cells"]
    for cell in cells:
        if cell["attack"] == "flip":
            cell.update(ended("stopped"), message="too few replies")
    (only,) = read_tables(judged_again(made))
    verdict = judge(only, "strong")
    assert "flip" in [leak.attack for leak in verdict.none_holds]
    assert verdict.untested == ()


def test_a_rule_that_refuses_a_fraction_is_not_recommended():
    whole = GAINS | {"gaps": [0.95, 0.92, 0.95, 0.98, 0.99]}
    first, second = table(whole, TAXES), table(whole, TAXES, attackers=3)
    for cell in second["cells"]:
        if cell["defence"] == "strong":
            cell.update(ended("refused"), message="needs n >= 2f + 5")
    second["defences"][1]["worst"] = None
    assert choose(read_tables(summary(first, second))) == "gaps"


def test_nothing_measured_recommends_nothing():
    empty = table(GAINS, TAXES)
    for cell in empty["cells"]:
        cell.update(ended("missing"))
    tables = read_tables(judged_again(summary(empty)))
    assert choose(tables) is None
    assert len(tables[0].attacks) == len(ATTACKS)
