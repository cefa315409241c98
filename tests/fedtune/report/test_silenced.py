"""Who had no part in a run's rounds is said where its owner sees it: table, page, status.

Not proven here: that a server records weights and refusals so (tests/fedtune/round).
"""

import io

import pytest
from html_outline import outline
from made_up_run import LAST, append, make_run
from rich.console import Console
from typed_records import typed

from fedtune.recipe import parse_recipe
from fedtune.records.manifest import Manifest
from fedtune.report.pages.run import run_page
from fedtune.report.silenced import Silence, headlines, name_of, silences
from fedtune.report.status import Watch
from fedtune.report.status_facts import facts_of
from fedtune.report.status_screen import print_status
from fedtune.report.status_words import view_of

NAMES = ["module os", "module re", "", "module <b>json</b>"]


def test_rounds_without_a_part_by_hand(records):
    # client 2: 0.1, refused, 0.6. client 3: refused, weight 0, refused
    found = silences(typed(records))
    assert found == [Silence(3, zero=1, refused=2, asked=3), Silence(2, 0, 1, 3)]
    assert [one.words for one in found] == [
        "weight 0 in 1 and refused in 2 of 3 rounds",
        "refused in 1 of 3 rounds",
    ]
    assert Silence(1, 2, 0, 5).words == "weight 0 in 2 of 5 rounds"
    assert Silence(1, 1, 0, 1).words == "weight 0 in 1 of 1 round"


def test_what_a_rule_calls_dropped_counts_and_a_rule_without_weights_silences_no_one():
    def round_(**facts):
        return typed([{"round": 1, "sampled": [0], "refused": {}, "clients": {"0": facts}}])

    assert silences(round_(weight=5e-42, dropped=True)) == [Silence(0, 1, 0, 1)]
    assert silences(round_(weight=None, dropped=None)) == []
    assert silences(round_(weight=0.01, dropped=False)) == []
    assert silences(typed([{"round": 0, "eval": {"loss": 1.0}}])) == []


def test_honest_clients_are_told_apart_from_attackers_in_a_simulation(records):
    found = silences(typed(records))
    manifest = Manifest(simulated_attackers=[3], client_names=NAMES)
    assert headlines(found, manifest) == [
        "Honest clients that had no part: client 2: refused in 1 of 3 rounds.",
        "Attackers that had no part: client 3 (module <b>json</b>): weight 0 in 1 and refused in 2 "
        "of 3 rounds.",
    ]
    (line,) = headlines(found, Manifest(client_names=NAMES))
    assert line.startswith("Clients that had no part: client 3 (module <b>json</b>): weight 0 in 1")
    assert headlines([], manifest) == []


def test_of_a_crowd_the_worst_are_named_and_the_rest_counted():
    crowd = [Silence(client, 9 - client, 0, 9) for client in range(7)]
    (line,) = headlines(crowd, Manifest())
    assert line.count("client ") == 4
    assert line.endswith("client 3: weight 0 in 6 of 9 rounds; and 3 more, less often.")


@pytest.mark.parametrize("names", [[], ["\x1b[2J"], [""]])
def test_a_name_that_is_none_is_left_out(names):
    told = name_of(0, Manifest(client_names=names))
    assert told in {"client 0", "client 0 ([2J)"}
    assert "\x1b" not in told


def test_the_page_says_it_above_everything_else(records, tmp_path):
    raw = {
        "federation": {"num_clients": 4, "num_rounds": 3},
        "aggregator": {"name": "mean", "f": 0},
        "output_dir": str(tmp_path / "run"),
    }
    manifest = Manifest(simulated_attackers=[3], client_names=NAMES)
    page = run_page(
        parse_recipe(raw),
        typed(records),
        manifest,
        [],
        recipe_text="task: sft",
        command="fedtune run x",
    )
    story = outline(page).all("section", **{"class": "story"})[0]
    notices = [each.text for each in story.all("p", **{"class": "notice"})]
    assert notices == headlines(silences(typed(records)), manifest)
    assert "<b>json" not in page
    heads = [each.text for each in outline(page).all("th", scope="row")]
    assert heads == ["0 module os", "1 module re", "2", "3 module <b>json</b> attacker"]
    assert "client 3 (module <b>json</b>), round" in outline(page).text


def test_the_status_says_it_while_the_run_goes_on(tmp_path):
    folder = make_run(tmp_path / "run")
    folder.manifest.write_text('{"client_names": ["a", "b", "c", "node-d"]}')
    said = (
        "Clients that had no part: client 3 (node-d): weight 0 in 1 and refused in 1 of 2 rounds."
    )
    watch = Watch(folder.path)
    status = watch.look()
    assert list(view_of(status).silenced) == [said]
    assert facts_of(status)["silenced"] == [said]
    console = Console(file=io.StringIO(), width=200)
    print_status(console, view_of(status))
    assert said in console.file.getvalue()
    assert [row.cells[0] for row in view_of(status).clients] == ["0 a", "1 b", "2 c", "3 node-d"]
    assert [one["name"] for one in facts_of(status)["clients"]] == ["a", "b", "c", "node-d"]
    assert "client 3 (node-d)" in {who for who, _, _ in view_of(status).refusals}
    append(folder, LAST)  # refused once more
    assert "refused in 2 of 3 rounds" in view_of(watch.look()).silenced[0]
