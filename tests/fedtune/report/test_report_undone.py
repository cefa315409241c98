"""How often a round was undone, and by whom, is said in table, page, status and progress."""

import json
from io import StringIO

import pytest
from html_outline import outline
from made_up_run import RECORDS, make_run
from rich.console import Console
from typed_records import typed

from fedtune.recipe import parse_recipe
from fedtune.records.events import RoundFinished, RunStarted
from fedtune.records.folder import RunFolder
from fedtune.records.lines import UnreadableLineError, read_record
from fedtune.records.manifest import Manifest
from fedtune.report.live import LiveView
from fedtune.report.pages.run import run_page
from fedtune.report.status import Watch
from fedtune.report.status_facts import facts_of
from fedtune.report.status_words import view_of
from fedtune.report.table import print_summary
from fedtune.report.undone import outcome_of, undone_by, undone_in_words, undone_so_far
from fedtune.round.defence.vote import undone_rounds

RECIPE = {"federation": {"num_clients": 4, "num_rounds": 3}}
WORDS = "1 of 3 rounds undone by vote, 1 at half length, 1 without a decision"


def voted(records):
    """Round 1 stands at half its length, round 2 is undone, round 3 has too few votes."""
    outcomes = [("accepted", 2, 0), ("undone", 2, 1), ("no decision", 1, 1)]
    told = [
        record
        | {"vote": {"decided": decided, "tries": [{"scale": 1.0}] * tries}, "undone_rounds": undone}
        for record, (decided, tries, undone) in zip(records[1:], outcomes, strict=False)
    ]
    return [records[0], *told]


def test_the_words_by_hand(records):
    assert undone_in_words(typed(records), 3) is None
    assert undone_in_words(typed(voted(records)), 3) == WORDS
    one = [
        {"round": 1, "vote": {"decided": "accepted", "tries": [{"scale": 1.0}]}, "undone_rounds": 0}
    ]
    assert undone_in_words(typed(one), 1) == "0 of 1 rounds undone by vote"


def judged(round_, undone, **decisions):
    """A record in which each jury has decided so, after so many tries."""
    said = {
        key: {"decided": decided, "tries": [{"scale": 1.0}] * tries}
        for key, (decided, tries) in decisions.items()
    }
    return {"round": round_, "undone_rounds": undone, **said}


def test_the_words_of_a_trial_on_server_data():
    alone = typed(
        [
            judged(1, 0, trial=("accepted", 1)),
            judged(2, 1, trial=("undone", 2)),
            judged(3, 1, trial=("accepted", 2)),
        ]
    )
    assert undone_in_words(alone, 3) == "1 of 3 rounds undone by server data, 1 at half length"
    assert [outcome_of(each) for each in alone] == ["accepted", "undone", "halved"]


def test_the_words_of_both_juries_say_who_refused_last():
    both = [
        judged(1, 0, trial=("accepted", 1), vote=("accepted", 1)),
        judged(2, 1, trial=("undone", 2)),  # the clients are not asked
        judged(3, 2, trial=("undone", 2), vote=("undone", 1)),  # the clients refused the whole step
        judged(4, 3, trial=("accepted", 2), vote=("undone", 2)),
        judged(5, 3, trial=("accepted", 2), vote=("accepted", 1)),
        judged(6, 3, trial=("accepted", 1), vote=("no decision", 1)),
    ]
    both = typed(both)
    assert [undone_by(each) for each in both] == [
        None, "server data", "server data", "vote", None, None]  # fmt: skip
    assert undone_in_words(both, 6) == (
        "3 of 6 rounds undone (2 by server data, 1 by vote), 1 at half length, 1 without a decision"
    )
    assert undone_in_words(both[:1], 1) == "0 of 1 rounds undone"


def test_the_count_is_carried_past_a_line_that_was_cut_off(records):
    # A round that is measured again after its line was lost says nothing of votes.
    mended = typed([*voted(records)[:3], {"round": 3, "measured_again": True}])
    assert undone_so_far(mended) == undone_rounds(mended) == 1
    assert undone_rounds([]) == 0
    assert undone_so_far(typed(records)) is None


def test_a_stranger_s_record_is_no_outcome():
    for section in (None, {}, {"decided": None}):
        assert outcome_of(*typed([{"round": 1, "vote": section}])) is None
    for section in (3, "undone", {"decided": []}, {"decided": "won"}, {"tries": 7}):
        with pytest.raises(UnreadableLineError, match="vote"):
            read_record(json.dumps({"round": 1, "vote": section}))


def test_table_page_and_progress_say_it(records, tmp_path):
    recipe, told, plain = parse_recipe(RECIPE), typed(voted(records)), typed(records)
    console = Console(record=True, width=80, file=StringIO())
    print_summary(console, recipe, told, [], RunFolder(tmp_path))
    assert f" {WORDS}\n" in console.export_text()
    page = run_page(recipe, told, Manifest(), [], recipe_text="", command="")
    assert f"{WORDS}." in outline(page).all("main")[0].text
    assert "by vote" not in run_page(recipe, plain, Manifest(), [], recipe_text="", command="")
    out = StringIO()
    with LiveView(Console(file=out, width=200), recipe) as view:
        view(RunStarted(told[:1]))
        for record in told[1:]:
            view(RoundFinished(record))
    lines = [line for line in out.getvalue().splitlines() if line.startswith("round ")]
    said = ("half of the step stands", "undone by vote", "too few votes to decide")
    assert [part in line for part, line in zip(said, lines, strict=True)] == [True] * 3


def test_status_says_it(tmp_path):
    told = voted(RECORDS)
    status = Watch(make_run(tmp_path / "run", records=told).path).look()
    assert dict(view_of(status).facts)["Steps"] == (
        "1 of 2 rounds undone by vote, 1 at half length"
    )
    assert facts_of(status)["undone_rounds"] == 1
    plain = Watch(make_run(tmp_path / "plain").path).look()
    assert "Steps" not in dict(view_of(plain).facts)
    assert facts_of(plain)["undone_rounds"] is None
