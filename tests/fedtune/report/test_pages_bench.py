"""Proves what stands in a bench's page, read without a browser and without a script."""

import base64
import hashlib
import json
import re

import pytest
from html_outline import outline
from small_bench import ATTACKS, counts, ended, judged_again, small, stat, summary, table

from attacks import GOALS as KNOWN_GOALS
from fedtune.report.pages.bench import bench_page
from fedtune.report.pages.matrix import GOALS

EVIL = "<script>document.title='owned'</script>"


def rows_of(page):
    return outline(page).all("tbody")[0].all("tr")


def changed(attack, defence, /, **facts):
    made = small()
    for cell in made["tables"][0]["cells"]:
        if (cell["attack"], cell["defence"]) == (attack, defence):
            cell.update(facts)
    return made


def cell_of(page, defence, attack):
    (row,) = [row for row in rows_of(page) if row.all("th")[0].text == defence]
    return row.all("td")[2 + list(ATTACKS).index(attack)]


def test_rows_stand_by_their_worst_case():
    rows = rows_of(bench_page(small()))
    assert [row.all("th")[0].text for row in rows] == ["strong", "gaps", "mean"]
    # worst case, tax, then flip, search, launder, trigger, nan; 0.6: 1 - 0.4 obeyed
    assert [cell.text for cell in rows[0].all("td")] == [
        "0.60trigger", "1.8\u00a0%", "0.97", "0.85", "0.89", "1.00obeyed 40\u00a0%", "0.99refused",
    ]  # fmt: skip
    assert [row.has("chosen") for row in rows] == [True, False, False]
    assert [cell.has("worst") for cell in rows[0].all("td")[2:]] == [False] * 3 + [True, False]


def test_the_head_of_a_table_says_what_is_assumed():
    page = outline(bench_page(summary(table({"a": [0.9] * 5}, {"a": 0.0}, attackers=3))))
    assert "3 of 10 clients attack (30\u00a0%), f = 3 assumed" in page.text
    assert (
        "untrained base 4.000, honest clients alone 3.000, mean of all with no attacker 2.900"
        in (page.text)
    )
    assert "seed 0" in page.text


def test_who_holds_more_under_fewer_seeds_is_told_and_not_chosen():
    made = table({"few": [0.99] * 5, "many": [0.95, 0.95, 0.5, 0.95, 0.95]}, {"few": 0, "many": 0})
    made["defences"][1]["num_seeds"] = 3
    told = outline(bench_page(summary(made))).all("section", **{"class": "verdict"})[0].text
    assert "Use many: none under as many seeds holds against more, 3 of 5" in told
    assert "few holds against 4 of 5, under 1 of 3 seeds alone." in told
    made["defences"][0]["num_seeds"] = 3
    told = outline(bench_page(summary(made))).all("section", **{"class": "verdict"})[0].text
    assert "Use few" in told
    assert "seeds alone" not in told


def test_the_verdict_is_said_in_words():
    verdict = outline(bench_page(small())).all("section", **{"class": "verdict"})[0].text
    assert "Use strong: none holds against more, 2 of 5, but it does not hold" in verdict
    worst = "0.60kept in its worst case, trigger, whose trigger is obeyed in 40\u00a0% of prompts"
    assert worst in verdict
    assert "It holds against 2 of 5 attacks." in verdict
    assert "1.8\u00a0% tax with no attacker" in verdict
    assert "search: it keeps 0.85; gaps keeps 0.92." in verdict
    none_holds = verdict.split("Where none holds")[1]
    assert "triggertrigger obeyed in 40\u00a0% of prompts at 20\u00a0% attackers" in none_holds
    assert "search" not in none_holds


def test_a_defence_that_holds_everything_is_said_to():
    made = summary(table({"a": [0.97] * 5}, {"a": 0.01}))
    for cell in made["tables"][0]["cells"]:
        cell["backdoor"] = None
    judged_again(made)
    verdict = outline(bench_page(made)).all("section", **{"class": "verdict"})[0].text
    assert "Use a: it holds against every attack tried." in verdict
    assert "Nowhere: against each attack at least one defence holds." in verdict


def test_a_defence_that_fails_least_is_said_to_fail():
    made = summary(table({"a": [0.95, -0.5, 0.2, 1.0, 1.0]}, {"a": 0.0}))
    assert "which only fails least: no defence here survives every attack" in bench_page(made)
    # b survives all, and holds none: that no defence survives would be wrong to say
    gains = {"a": [0.95, -0.5, 0.95, 1.0, 1.0], "b": [0.3] * 5}
    page = bench_page(summary(table(gains, {"a": 0.0, "b": 0.0})))
    assert "Use <strong>a</strong>: none holds against more, 3 of 5, but not every attack" in page
    assert "search: it keeps −0.50; b keeps 0.30." in page
    assert "At this fraction alone b keeps more, 0.30." in page


def test_a_row_that_assumes_another_f_says_so():
    made = small()
    made["tables"][0]["defences"][1]["f"] = 1
    page = bench_page(made)
    heads = [row.all("th")[0].text for row in rows_of(page)]
    assert heads == ["strongf = 1", "gaps", "mean"]
    made["tables"][0]["defences"][0]["num_seeds"] = 3
    heads = [row.all("th")[0].text for row in rows_of(bench_page(made))]
    assert sorted(heads) == ["gaps1 of 3 seeds", "mean", "strongf = 1, 1 of 3 seeds"]
    data = json.loads(outline(page).all("script", id="data")[0].text)
    assert {cell["where"] for cell in data["cells"] if "on strong" in cell["title"]} == {
        "2 of 10 clients attack; the server assumes f = 1"
    }


def test_a_seed_that_broke_off_is_shown_beside_the_mean_of_the_others():
    facts = {"seeds": counts(done=2, stopped=1), "retained": stat(0.96, 0.98), "kept": 0.64}
    cell = cell_of(bench_page(changed("flip", "strong", **facts)), "strong", "flip")
    assert cell.text == "0.971 of 3 stopped"
    assert cell.has("g3")  # by what it counts as


def test_what_a_rule_without_weights_has_dropped_is_not_known():
    facts = {"honest_dropped_share": None, "liars_dropped_share": None}
    page = outline(bench_page(changed("flip", "strong", **facts)))
    cells = json.loads(page.all("script", id="data")[0].text)["cells"]
    (cell,) = [one for one in cells if one["title"] == "flip on strong"]
    assert cell["dropped"] == [["attackers", None], ["honest clients", None]]


@pytest.mark.parametrize(
    ("code", "now", "told"),
    [
        (["abc"], "abc", None),
        (
            ["abc"],
            "def",
            "All cells stem from one state of the code, abc; this summary was",
        ),
        (["abc", "def"], "def", "Cells stem from 2 states of the code: abc, def; this summary"),
    ],
)
def test_results_of_other_code_are_announced(code, now, told):
    page = bench_page(small() | {"code": code, "code_now": now})
    assert (told in page) if told else ("of the code" not in page)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("missing", "not run"),
        ("skipped", "left out"),
        ("stopped", "stopped"),
        ("diverged", "diverged"),
        ("crashed", "crashed"),
        ("refused", "cannot run"),
    ],
)
def test_what_was_not_measured_is_no_number(status, words):
    page = bench_page(changed("launder", "strong", **ended(status), message="why"))
    cell = cell_of(page, "strong", "launder")
    assert cell.text == words
    assert cell.has(status)
    label = cell.all("span")[0].attributes["data-label"]
    assert label.startswith("launder on strong. ")
    assert "why" in label


def test_replies_that_were_let_through_are_not_shown_as_refused():
    page = bench_page(changed("nan", "strong", refused_share=0.5))
    assert cell_of(page, "strong", "nan").text == "0.99refused 50\u00a0%"


def test_a_column_that_has_no_meaning_waits_for_nothing():
    made = small()
    for cell in made["tables"][0]["cells"]:
        if cell["attack"] == "launder":
            cell.update(ended("skipped"))
    foot = outline(bench_page(made)).all("tfoot")[0].all("td")
    assert [cell.text for cell in foot[2:]] == [
        "0.97held", "0.92held", "–", "1.00obeyed 40\u00a0%none holds", "1.00held",
    ]  # fmt: skip


def test_a_backdoor_colours_its_cell_by_the_worse_of_the_two():
    assert cell_of(bench_page(small()), "strong", "trigger").has("g3")  # 1 - 0.4
    page = bench_page(judged_again(changed("trigger", "strong", backdoor=stat(0.02))))
    assert cell_of(page, "strong", "trigger").has("g0")


def test_missing_runs_are_announced():
    made = small() | {"cells": {"done": 28, "of": 30}}
    assert "2 of 30 runs are not done" in bench_page(made)
    assert "not done" not in bench_page(small())


def test_details_travel_as_json():
    page = outline(bench_page(small()))
    data = json.loads(page.all("script", id="data")[0].text)
    assert data["levels"] == [{"base": 4.0, "oracle": 3.0}]
    (index,) = [
        span.attributes["data-cell"]
        for span in page.all("span")
        if span.attributes.get("data-label", "").startswith("search on strong")
    ]
    cell = data["cells"][int(index)]
    assert cell["title"] == "search on strong"
    assert cell["say"] == "Keeps 0.85 of the gain that the honest clients reach alone."
    assert cell["commands"] == ["fedtune run base attack.name=search"]
    assert cell["curves"] == [{"seed": "0", "points": [[0.0, 4.0], [1.0, 3.15]]}]
    assert cell["dropped"] == [["attackers", 0.75], ["honest clients", 0.125]]
    assert ["Loss of the worst honest client", "4.500 (one seed: no interval)"] in cell["facts"]


def test_a_loss_that_is_not_finite_is_a_gap():
    curve = [{"seed": 0, "points": [[0, 4.0], [1, float("nan")], [2, None], [3, 3.5]]}]
    page = outline(bench_page(changed("flip", "strong", curves=curve)))
    cells = json.loads(page.all("script", id="data")[0].text)["cells"]
    points = next(one for one in cells if one["title"] == "flip on strong")["curves"][0]["points"]
    assert points == [[0.0, 4.0], [1.0, None], [2.0, None], [3.0, 3.5]]


def test_strangers_words_are_escaped_everywhere():
    text = json.dumps(small()).replace('"strong"', json.dumps(EVIL))
    text = text.replace('"flip"', json.dumps(f"flip{EVIL}")).replace('"lie"', json.dumps(EVIL))
    made = json.loads(text) | {"title": EVIL, "machine": EVIL, "code": [EVIL], "command": EVIL}
    made |= {"seeds": [EVIL], "versions": {EVIL: EVIL}, "level": EVIL, "notes": [EVIL]}
    page = bench_page(made)
    assert EVIL not in page
    assert len(outline(page).all("script")) == 2


def test_nothing_but_its_own_script_may_run():
    page = bench_page(small())
    root = outline(page)
    (policy,) = root.all("meta", **{"http-equiv": "Content-Security-Policy"})
    for name, source in (("style", root.all("style")[0]), ("script", root.all("script")[1])):
        digest = base64.b64encode(hashlib.sha256(source.text.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy.attributes["content"]
    assert "default-src 'none'" in policy.attributes["content"]
    assert not re.search(r"""\b(src|href)=|url\(|@import|style=["']""", page)


def test_every_goal_has_its_heading():
    assert GOALS.keys() == KNOWN_GOALS.keys()


def test_columns_stand_in_groups():
    made = small()
    made["tables"][0]["attacks"].reverse()
    heads = outline(bench_page(made)).all("thead")[0].all("tr")
    assert [head.text for head in heads[0].all("th")] == [
        GOALS[goal] for goal in ("harm", "backdoor", "refused")
    ]
    labels = [head.text for head in heads[1].all("th")][3:]
    assert labels == ["launder", "search", "flip", "trigger", "nan"]


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({}, "needs tables: Field required"),
        ([], "needs Input should be a valid dictionary"),
        ({"tables": []}, "needs tables: List should have at least 1 item"),
        ({"tables": [3]}, "needs tables.0: "),
        ({"tables": [small()["tables"][0] | {"cells": "x"}]}, "needs tables.0.cells: "),
        ({"tables": [small()["tables"][0] | {"f": "2"}]}, "tables.0.f: .*valid integer"),
        (changed("flip", "mean", status="fine"), "status: Input should be 'done', 'diverged'"),
        (changed("flip", "mean", seeds=3), "tables.0.cells.0.seeds: "),
        (changed("flip", "mean", defence="other"), "got 'flip' on 'other'"),
    ],
)
def test_a_summary_that_is_none_is_refused(made, words):
    with pytest.raises(ValueError, match=words):
        bench_page(made)


def test_two_columns_of_one_label_are_refused():
    made = small()
    made["tables"][0]["attacks"].append(made["tables"][0]["attacks"][0])
    with pytest.raises(ValueError, match="only one"):
        bench_page(made)


def fuller():
    """What newer benches say beside: of rounds, honest clients, floors, searches."""
    worst = {"kept": -0.25, "client": 4, "name": "topic <b>", "seed": 0}
    made = changed(
        "trigger",
        "strong",
        least={"kept": 0.5, "round": 2, "seed": 0},
        worse_than_base=[0],
        worst_honest=worst,
        backdoor_net=stat(0.375),
        backdoor_most=stat(0.625),
        above_floor=stat(0.125),
        most_above_floor=stat(0.25),
    )
    made["seconds"] = 61.0
    made["tables"][0]["floor"] = {"end": stat(0.25), "most": stat(0.375)}
    for attack in made["tables"][0]["attacks"]:
        attack["searched"] = attack["label"] == "search"
    made["tables"][0]["defences"][1] |= {
        "worst_honest": worst | {"attack": "flip"},
        "silenced": {"free": None, "attacked": {"clients": 1, "of": 8, "share": 0.5}},
    }
    return made


def details_of(page, title):
    data = json.loads(outline(page).all("script", id="data")[0].text)
    (cell,) = [one for one in data["cells"] if one["title"] == title]
    return dict(cell["facts"])


def test_a_cell_tells_rounds_honest_clients_and_the_floor():
    facts = details_of(bench_page(fuller()), "trigger on strong")
    assert facts["Least gain, any round"] == "0.50 (round 2, seed 0)"
    assert facts["Worse than its base"] == "1 of 1 seeds"
    assert facts["Worst honest client, share of its gain"] == (
        "−0.25 (client 4 (topic <b>), seed 0)"
    )
    assert facts["Less what is said without it"] == "38\u00a0%"
    assert facts["The same, at most in any round"] == "62\u00a0%"
    assert facts["Above the floor, at the end"] == "+12 points"
    assert facts["Above the floor, at most"] == "+25 points"
    assert facts["Re-optimised against this defence"] == "no: as tuned elsewhere"
    older = details_of(bench_page(small()), "trigger on strong")
    assert not {"Least gain, any round", "Re-optimised against this defence"} & set(older)


def test_the_marks_of_a_cell_and_of_a_table():
    page = bench_page(fuller())
    assert cell_of(page, "strong", "trigger").text == "1.00below base"
    made = fuller()
    (cell,) = [c for c in made["tables"][0]["cells"] if c.get("least")]
    cell["worse_than_base"] = []
    told = cell_of(bench_page(made), "strong", "trigger").text
    assert told == "1.00obeyed 40\u00a0%, +25 over the floor"
    text = outline(page).text
    assert "mean of all: 25\u00a0% at the end, at most 38\u00a0% in any round." in text
    assert "as tuned elsewhere: flip, launder, trigger, nan." in text
    assert "searchre-optimised" in text
    assert "Time of all runs1:01" in text


def test_honest_clients_have_a_table_on_the_page():
    (honest,) = outline(bench_page(fuller())).all("table", **{"class": "honest"})
    rows = {row.all("th")[0].text: row.all("td") for row in honest.all("tbody")[0].all("tr")}
    assert [cell.text for cell in rows["strong"]] == [
        "not known", "−0.25: client 4 (topic <b>), flip, seed 0", "not known", "not known",
        "1 of 8, in 50 % of rounds",
    ]  # fmt: skip
    assert rows["strong"][1].has("g5")
    verdict = outline(bench_page(fuller())).all("section", **{"class": "verdict"})[0].text
    assert "Worst honest client: −0.25 of its gain (client 4 (topic <b>), flip, seed 0)." in verdict
    assert "Honest clients at weight 0 with an attacker: 1 of 8, in 50 % of rounds." in verdict
    assert {cell.text for cell in rows["mean"]} == {"not known"}


def test_what_is_said_without_the_trigger_is_no_backdoor():
    """40 % obeyed, but 35 % without: an excess of 5 %, which is stopped."""
    made = changed("trigger", "strong", backdoor_net=stat(0.05), kept=0.95)
    page = bench_page(made)
    foot = outline(page).all("tfoot")[0].all("td")
    assert foot[-2].text == "1.00obeyed 40\u00a0%held"
