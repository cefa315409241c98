"""Proves what stands in a run's page, and that a folder alone is enough for it."""

import json

import pytest
from html_outline import outline
from small_bench import small
from typed_records import typed
from typer.testing import CliRunner

from fedtune.cli import app
from fedtune.recipe import parse_recipe, to_yaml
from fedtune.records.folder import RunFolder
from fedtune.records.lines import RoundRecord
from fedtune.records.manifest import Manifest
from fedtune.report.pages.bench import bench_page
from fedtune.report.pages.chart import loss_chart
from fedtune.report.pages.run import run_page
from fedtune.report.pages.writing import write_page

SAMPLE = {"prompt": "def f():", "truth": "Do it.", "before": "the", "after": "<b>Do.</b>"}
RECIPE = {
    "federation": {"num_clients": 4, "num_rounds": 3},
    "attack": {"name": "sign_flip", "num_attackers": 1},
    "aggregator": {"name": "trimmed_mean", "f": 1},
}


def page_of(records, **manifest):
    return run_page(
        parse_recipe(RECIPE),
        typed(records),
        Manifest(**{"simulated_attackers": [3], "client_rows": [10, 20, 30, 40], **manifest}),
        [SAMPLE],
        recipe_text="task: sft # <x>",
        command="fedtune run 'a b/recipe.yaml'",
    )


def test_the_story_is_told_in_words(records):
    text = outline(page_of(records)).all("main")[0].text
    assert "The held-out loss fell from 6.000 to 5.000 in 3 of 3 rounds." in text
    # Client 3: refused, 0, refused, so 0 % where 1/4 is fair.
    assert "1 of 4 clients attack by sign_flip. The rule is not told; it gave them 0.0 %" in text
    assert "25.0 % is fair" in text
    assert "3 replies were refused, of 2 clients." in text
    assert "fedtune run 'a b/recipe.yaml'" in text
    assert "task: sft # <x>" in text


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "sft of HuggingFaceTB/SmolLM2-135M-Instruct |"),
        ("/home/me/models/tiny/", "sft of tiny |"),  # a page may be sent on: no path of ours
        ("nano", "sft of nano |"),
    ],
)
def test_it_names_task_and_model(records, model, told):
    recipe = parse_recipe({**RECIPE, "model": {"name_or_path": model}})
    page = run_page(recipe, typed(records), Manifest(), [], recipe_text="x", command="y")
    assert told in outline(page).all("header")[0].text


def test_a_name_that_is_cut_in_the_table_stands_whole_beside_it(records):
    name = "The hospital of Saint <Mary> at the river"
    page = page_of(records, client_names=[name, "b", "c", "d"])
    assert 'title="client 0 (The hospital of Saint &lt;Mary&gt; at the river)">0 The hosp' in page


def test_pictures_share_a_wide_screen_and_tables_say_that_they_scroll(records):
    page = page_of(records)
    (pictures,) = [each for each in outline(page).all("div") if each.has("pictures")]
    assert pictures.has("two")
    assert len(pictures.all("svg")) == 2
    for each in (page, bench_page(small())):
        assert "watchWide(document)" in each
        assert "Scroll sideways" in each
        assert "position: sticky; left: 0" in each


def test_a_backdoor_is_said_where_it_was_measured(records):
    assert "Backdoor" not in page_of(records)
    records[0]["eval"]["backdoor_success"] = 0.0
    records[-1]["eval"]["backdoor_success"] = 0.865
    words = (
        "Backdoor success rate: 86\u00a0% of prompts with the trigger; before training 0\u00a0%."
    )
    assert words in outline(page_of(records)).text


def test_each_client_has_a_line(records):
    rows = outline(page_of(records)).all("tbody")[0].all("tr")
    assert [row.all("th")[0].text for row in rows] == ["0", "1", "2", "3 attacker"]
    # Client 2: rows 30; weights 0.1, refused, 0.6 -> 0.233, 0.93 of 1/4; once under 1/8.
    cells = [cell.text for cell in rows[2].all("td")]
    assert cells == ["30", "23.3 %", "0.93×", "1", "1 of 3", "1", "1", "–"]


def test_refusals_stand_once_with_their_rounds(records, evil):
    (reasons,) = outline(page_of(records)).all("ul", **{"class": "refusals"})
    assert [item.text for item in reasons.all("li")] == [
        "client 3, rounds 1, 3: [bold]trust[/bold] me [2J ]0;owned it is enif",
        "client 2, round 2: it sent no reply",
    ]
    assert evil not in page_of(records)


def test_the_strip_shows_weights_and_refusals(records):
    (strip,) = outline(page_of(records)).all("svg", **{"class": "curve strip"})
    squares = strip.all("rect")
    assert len(squares) == 12  # four clients, three rounds
    titles = {square.text: square.attributes["class"] for square in squares}
    assert titles["round 1, client 0: 2.00 of a fair share"] == "s0"
    assert titles["round 1, client 2: 0.40 of a fair share"] == "s3"
    assert titles["round 2, client 3: 0.00 of a fair share"] == "s5"
    assert titles["round 2, client 2: refused: it sent no reply"] == "crossed"


def test_a_crowd_and_many_rounds_are_said_to_be_cut(records):
    many = [records[0]] + [
        records[1] | {"round": at, "sampled": list(range(50)), "refused": {}}
        for at in range(1, 131)
    ]
    text = outline(page_of(many)).text
    assert "The last 120 of 130 rounds; all are in metrics.jsonl." in text
    assert "18 clients with fewer refusals are left out" in text  # 50 - 32


def test_a_curve_breaks_where_the_loss_is_not_finite():
    points = [(0, 4.0), (1, 3.5), (2, None), (3, 3.0)]
    drawn = outline(loss_chart(points, 4.0))
    (path,) = [one for one in drawn.all("path") if one.attributes["class"] == "run"]
    assert path.attributes["d"].count("M") == 2
    assert path.attributes["d"].count("L") == 1
    assert loss_chart([(0, None)], None) is None


def test_a_log_axis_has_few_levels():
    # 1e-15, 1e-12, 1e-9, 1e-6, 1e-3, 1: every third decade.
    drawn = outline(loss_chart([(0, 4.0), (1, 1e-15)], 4.0))
    assert len([one for one in drawn.all("line") if one.attributes["class"] == "grid"]) == 6


@pytest.mark.parametrize("losses", [[4.0], [4.0, 4.0], [0.0, 0.0], [1e-3, 4.0, 1e6], [-2.0, 3.0]])
def test_a_curve_is_drawn_within_its_frame(losses):
    drawn = outline(loss_chart(list(enumerate(losses)), losses[0]))
    _, _, width, height = map(float, drawn.all("svg")[0].attributes["viewbox"].split())
    for dot in drawn.all("circle"):
        assert 0 <= float(dot.attributes["cx"]) <= width
        assert 0 <= float(dot.attributes["cy"]) <= height


def test_a_run_that_measured_nothing_has_a_page():
    text = outline(page_of([])).text
    assert "0 of 3 rounds are done; the held-out loss is not known." in text
    assert "Nothing was measured yet." in text


def leave_a_run(path, records):
    path.mkdir()
    folder = RunFolder(path)
    folder.recipe.write_text(to_yaml(parse_recipe(RECIPE)))
    for record in records:
        folder.append_metrics(RoundRecord.model_validate(record))
    (path / "samples.jsonl").write_text(json.dumps(SAMPLE) + "\n")
    return folder


def test_the_command_writes_a_runs_page(records, tmp_path, monkeypatch):
    leave_a_run(tmp_path / "one run", records)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["report", "one run"])
    assert result.exit_code == 0, result.output
    page = (tmp_path / "one run" / "report.html").read_text(encoding="utf-8")
    text = outline(page).text
    assert "fedtune run 'one run/recipe.yaml'" in text
    assert "<b>Do.</b>" in text


def test_a_bench_folder_becomes_a_benchs_page(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps(small()))
    assert write_page(tmp_path) == tmp_path / "bench.html"
    assert "Use strong" in outline((tmp_path / "bench.html").read_text(encoding="utf-8")).text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.html", "summary.json"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (None, "which is no folder"),
        ({}, "which has neither"),
        ({"summary.json": "{"}, "summary.json needs to be JSON"),
        ({"summary.json": "[]"}, "summary needs"),
        ({"recipe.yaml": to_yaml(parse_recipe({})), "samples.jsonl": "{}\n{"}, "line 2 of"),
    ],
)
def test_a_folder_of_neither_is_refused(files, words, tmp_path):
    path = tmp_path / "folder"
    if files is not None:
        path.mkdir()
        for name, text in files.items():
            (path / name).write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        write_page(path)
    result = CliRunner().invoke(app, ["report", str(path)])
    assert result.exit_code == 2
    assert "error" in result.output
    assert not (path / "report.html").exists()
