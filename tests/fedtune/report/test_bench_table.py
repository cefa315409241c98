"""A bench in the terminal: the tables, the Markdown, and the progress.

Not proven here: the numbers themselves (tests/fedtune/attack_bench/test_bench_numbers.py).
"""

import copy
import io
import re

import pytest
from rich.console import Console

from fedtune.records.bench_summary import read_summary
from fedtune.report.bench_progress import BenchView
from fedtune.report.bench_table import bench_markdown, print_bench


def stat(mean, half=None):
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return {"mean": mean, "low": low, "high": high, "values": {}}


def seeds(**counts):
    known = ("done", "diverged", "stopped", "crashed", "refused", "skipped", "missing")
    return dict.fromkeys(known, 0) | counts


def cell(attack, defence, retained, **facts):
    return {
        "attack": attack, "defence": defence, "status": "done", "message": "",
        "seeds": seeds(done=2), "retained": retained, "kept": retained and retained["mean"],
        "backdoor": None, **facts,
    }  # fmt: skip


def worst(attack, kept, *, diverged=False):
    return {"attack": attack, "kept": kept, "stopped": False, "diverged": diverged}


SUMMARY = {
    "title": "A <b>title</b> | with signs",
    "command": "fedtune bench x",
    "machine": "this one",
    "notes": ["a note"],
    "seeds": [0, 1],
    "code": ["one", "two"],
    "code_now": "two",
    "cells": {"done": 5, "of": 8},
    "tables": [
        {
            "fraction": 0.2, "num_attackers": 2, "num_clients": 10, "f": 3,
            "base": stat(4.5), "oracle": stat(3.5), "mean_of_all": stat(3.25),
            "attacks": [{"label": "alie"}, {"label": "door"}],
            "defences": [
                {"label": "lost", "tax": None, "worst": worst("alie", None, diverged=True),
                 "tax_message": "no loss without an attacker"},
                {"label": "weak", "tax": stat(0.0), "worst": worst("alie", -2.0)},
                {"label": "none of it", "tax": None, "worst": None},
                {"label": "good", "tax": stat(0.95), "worst": worst("door", 0.75), "f": 1},
            ],
            "cells": [
                cell("alie", "weak", stat(-2.0, 0.5)),
                cell("door", "weak", None, status="stopped", kept=0.0, message="round 1 failed",
                     seeds=seeds(stopped=2)),
                cell("alie", "good", stat(0.899)),
                cell("door", "good", stat(0.97, 0.125), backdoor=stat(0.25), kept=0.75),
                cell("alie", "lost", stat(0.97), kept=None, seeds=seeds(done=1, diverged=1)),
                cell("door", "lost", None, kept=None, status="diverged", seeds=seeds(diverged=2)),
                cell("alie", "none of it", None, status="refused", message="n >= 4f + 3"),
                cell("door", "none of it", None, status="missing"),
            ],
        }
    ],
}  # fmt: skip


def markdown(said):
    return bench_markdown(read_summary(said))


def printed(width=160):
    console = Console(file=io.StringIO(), width=width)
    print_bench(console, read_summary(SUMMARY))
    return console.file.getvalue()


def test_defences_stand_in_the_order_of_their_worst_case():
    for text in (printed(), markdown(SUMMARY)):
        places = [text.index(label) for label in ("good", "weak", "lost", "none of it")]
        assert places == sorted(places)


def test_every_kind_of_cell_is_told():
    lines = [line for line in markdown(SUMMARY).splitlines() if line.startswith("| ")]
    assert lines[0] == "| defence | tax | worst | alie | door |"
    # 0.899 is rounded down: it does not hold
    assert lines[2] == "| good (f=1) | 95.0 % | 0.75 door | 0.89 | 0.97 ±0.12, 25% obey |"
    assert lines[3] == "| weak | 0.0 % | -2.00 alie | -2.00 ±0.50 | stopped |"
    assert lines[4] == "| lost | - | diverged alie | 0.97, 1 of 2 diverged | diverged |"
    assert lines[5] == "| none of it | - | - | n/a | ... |"


def test_a_cell_has_the_colour_of_what_it_counts_as():
    """Green from 0.9 on, red below 0.5; a tax is no gain, and 0.97 that obeys is not green."""
    console = Console(file=io.StringIO(), width=160, force_terminal=True, color_system="standard")
    print_bench(console, read_summary(SUMMARY))
    shown = re.sub(r"m +", "m", console.file.getvalue())  # cells are set to the right
    green, red = "\x1b[32m", "\x1b[31m"
    for words in ("0.97 ±0.12, 25% obey", "0.89", "95.0 %", "0.75 door"):
        assert f"m{words}" not in shown
    for words in ("-2.00 ±0.50", "-2.00 alie", "stopped", "diverged", "0.97, 1 of 2 diverged"):
        assert f"{red}{words}" in shown
    assert green not in shown
    good = copy.deepcopy(SUMMARY)
    (mine,) = [c for c in good["tables"][0]["cells"] if c["kept"] == 0.899]
    mine.update(retained=stat(0.9), kept=0.9)
    print_bench(console, read_summary(good))
    assert f"{green}0.90" in re.sub(r"m +", "m", console.file.getvalue())


def test_a_narrow_screen_gets_what_each_defence_does_not_hold():
    """At 80 columns twelve attacks would stand in columns a letter wide."""
    wide = copy.deepcopy(SUMMARY)
    (table,) = wide["tables"]
    table["attacks"] += [{"label": f"attack number {i}"} for i in range(10)]
    for defence in table["defences"]:
        for i in range(10):
            gain = 0.5 if i < 2 and defence["label"] == "weak" else 1.0
            table["cells"].append(cell(f"attack number {i}", defence["label"], stat(gain)))
    console = Console(file=io.StringIO(), width=80)
    print_bench(console, read_summary(wide))
    shown = console.file.getvalue()
    rows = re.sub(r" *│\n│( *│){3}", "", shown)
    rows = re.sub(r"  +", " ", rows)
    assert (
        "│ weak │ 0.0 % │ -2.00 alie │ 4 of 12: alie, door, attack number 0, attack number 1"
        in rows
    )
    assert "│ good (f=1) │ 95.0 % │ 0.75 door │ 2 of 12: alie, door" in rows
    assert max(map(len, shown.split("does not hold")[0].splitlines())) <= 80
    assert "every cell" in " ".join(shown.lower().split())
    assert "does not hold" not in printed()
    assert "4 of 12" not in printed()


def test_a_row_of_fewer_seeds_says_so():
    fewer = copy.deepcopy(SUMMARY)
    for defence in fewer["tables"][0]["defences"]:
        defence["num_seeds"] = 1 if defence["label"] in {"good", "weak"} else 3
    text = markdown(fewer)
    assert "| good (f=1, 1 of 3 seeds) |" in text
    assert "| weak (1 of 3 seeds) |" in text
    assert "| lost |" in text


def test_the_head_says_f_and_the_references():
    for text in (" ".join(printed().split()), markdown(SUMMARY)):
        assert "2 of 10 clients attack (20%); the rules assume f=3" in text
        assert "base 4.500, oracle 3.500, mean of all with no attacker 3.250" in text


def test_the_foot_says_why_cells_lack_and_what_the_code_was():
    for text in (printed(), markdown(SUMMARY)):
        assert "none of it: n >= 4f + 3" in text
        assert "door on weak: round 1 failed" in text
        assert "Cells stem from 2 states of the code: one, two; this summary" in text
        assert "lost: no loss without an attacker" in text
        assert "a note" in text


def test_markdown_is_not_broken_by_a_label():
    text = markdown(SUMMARY)
    assert "# A &lt;b>title&lt;/b> \\| with signs" in text
    assert "```\nfedtune bench x\n```" in text
    assert "5 of 8 cells" in text


@pytest.fixture
def clock():
    """A clock that stands until it is set."""

    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

    return Clock()


def test_the_time_left_is_that_of_the_cells_known(clock):
    view = BenchView(Console(file=io.StringIO()), animate=False, clock=clock)
    view.plan(4, [], jobs=2)
    assert view.left_s() is None
    view.begun("a", "first")
    view.begun("b", "second")
    clock.now = 10.0
    view.ended("a", "first", "loss 1", 10.0)
    # three left at 10 s each, b has run its 10 already: 20 s of work for two
    assert view.left_s() == 10.0
    view.begun("c", "third")
    clock.now = 14.0
    assert view.left_s() == (30 - 10 - 4) / 2
    for key in "bcd":
        view.ended(key, key, "loss 1", 10.0)
    assert view.left_s() == 0.0


def test_cells_done_before_give_an_estimate_at_once(clock):
    console = Console(file=io.StringIO(), width=100)
    view = BenchView(console, animate=False, clock=clock)
    view.plan(6, [20.0, 40.0, 0.0], jobs=2)
    assert view.left_s() == 90.0  # 30 s each; what was refused took no time and does not count
    assert "6 cells to run in 2 processes, about 1:30" in console.file.getvalue()


def test_without_a_terminal_there_is_a_line_for_each_cell(clock):
    console = Console(file=io.StringIO(), width=100)
    with BenchView(console, clock=clock) as view:
        view.plan(1, [], jobs=1)
        view.begun("a", "alie on [krum]")
        view.ended("a", "alie on [krum]", "stopped: \x1b[31mred\nline", 2.0)
    shown = console.file.getvalue()
    assert "1/1 alie on [krum]: stopped: [31mred line (2.0 s), left: 0:00" in shown
    assert "\x1b" not in shown


def test_a_terminal_shows_what_runs(clock):
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    view = BenchView(console, animate=True, clock=clock)
    view.plan(3, [], jobs=2)
    view.begun("a", "alie on krum")
    clock.now = 65.0
    console.print(view.render())
    shown = console.file.getvalue()
    for words in ("0 of 3 cells", "1:05", "alie on krum", "not known yet"):
        assert words in shown


FULLER = {
    "least": {"kept": 0.25, "round": 2, "seed": 1},
    "worse_than_base": [0],
    "above_floor": stat(0.03),
    "most_above_floor": stat(0.07),
}


def fuller():
    """The same with what newer benches say; `weak` silences client 3."""
    made = copy.deepcopy(SUMMARY)
    (table,) = made["tables"]
    made["seconds"] = 3725.0
    table["floor"] = {"end": stat(0.125), "most": stat(0.375)}
    table["attacks"][0]["searched"], table["attacks"][1]["searched"] = True, False
    next(c for c in table["cells"] if (c["attack"], c["defence"]) == ("door", "good")).update(
        FULLER
    )
    weak = next(one for one in table["defences"] if one["label"] == "weak")
    weak |= {
        "least": {"kept": None, "round": 4, "seed": 0, "attack": "alie"},
        "worst_honest": {
            "kept": -0.5, "client": 3, "name": "topic code", "seed": 1, "attack": "alie"
        },
        "worst_honest_free": {"kept": 0.899, "client": 3, "name": "topic code", "seed": 1},
        "silenced": {
            "free": {"clients": 0, "of": 10, "share": 0.0, "longest": None},
            "attacked": {"clients": 2, "of": 8, "share": 0.0625, "longest": {
                "client": 3, "name": "topic code", "rounds": 2, "asked": 5, "attack": "alie",
                "seed": 1,
            }},
        },
    }  # fmt: skip
    return made


def test_a_cell_says_its_least_round_its_base_and_the_floor():
    text = markdown(fuller())
    # the larger of 3 and 7 points, whose success is 25 %
    assert (
        "| 0.97 ±0.12, least 0.25 r2, 25% obey, +7 over the floor, below its base: 1 of 2 |" in text
    )
    assert "the mean of all: 12 % at the end, at most 38 % in any round" in text
    assert "least" not in markdown(SUMMARY).split("| good")[1].split("\n")[0]


def test_attacks_that_were_tuned_elsewhere_are_named():
    text = markdown(fuller())
    assert "| defence | tax | worst | alie (re-optimised) | door |" in text
    assert "- Not re-optimised against each defence, as tuned elsewhere: door." in text
    assert "re-optimised" not in markdown(SUMMARY)  # older results do not say


def test_honest_clients_have_a_table_of_their_own():
    wide = Console(file=io.StringIO(), width=320)
    print_bench(wide, read_summary(fuller()))
    for text in (markdown(fuller()), wide.file.getvalue().replace("│", "|")):
        (row,) = [
            [cell.strip() for cell in line.strip().strip("|").split("|")]
            for line in text.splitlines()
            if "no finite loss" in line
        ]
        assert row == [
            "weak",
            "no finite loss: round 4, alie, seed 0",
            "-0.50: client 3 (topic code), alie, seed 1",
            "0.89: client 3 (topic code), seed 1",
            "none",
            "2 of 8, in 6 % of rounds; client 3 (topic code) in 2 of 5 under alie",
        ]


def test_what_older_results_do_not_say_of_honest_clients_is_not_known():
    lines = [line for line in markdown(SUMMARY).splitlines() if "not known" in line]
    assert len(lines) == 4
    assert lines[0] == "| good | not known | not known | not known | not known | not known |"


def test_the_time_of_all_runs_is_printed_with_the_machine():
    assert "this one. 5 of 8 cells. All runs together took 1:02:05." in markdown(fuller())
    assert "took" not in markdown(SUMMARY).split("##")[0]
