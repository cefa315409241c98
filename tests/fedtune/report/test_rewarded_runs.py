"""A run of GRPO is told by its reward: higher is better, term by term, in every view."""

import io
import json
import math

import pytest
from html_outline import outline
from rich.console import Console
from typed_records import typed

from fedtune.recipe import parse_recipe, to_yaml
from fedtune.records.events import RoundFinished, RunStarted
from fedtune.records.folder import RunFolder
from fedtune.records.manifest import Manifest
from fedtune.report.dash.page import Source
from fedtune.report.live import LiveView
from fedtune.report.pages.chart import loss_chart
from fedtune.report.pages.picture import draw_run
from fedtune.report.pages.run import run_page
from fedtune.report.status import Watch
from fedtune.report.status_facts import facts_of
from fedtune.report.status_screen import print_status
from fedtune.report.status_words import view_of
from fedtune.report.table import print_summary

RECIPE = {
    "task": "grpo",
    "rewards": [{"name": "format"}, {"name": "length", "weight": 0.5}],
    "federation": {"num_clients": 2, "num_rounds": 1},
    "aggregator": {"name": "mean", "f": 0},
}
SAMPLE = {"prompt": "Say", "truth": "", "before": "0.20 for: a", "after": "0.90 for: A."}


def rewarded(format_, length):
    reward = format_ + 0.5 * length
    terms = {"rewards/format": format_, "rewards/length": length}
    return {"loss": -reward, "reward": reward, **terms, "completion_words": 7.0, "num_prompts": 8}


@pytest.fixture
def lines():
    """Rewards of 0.2 and 1.019, as weighted sums: 0.1 + 0.1, and 0.9 + 0.119."""
    clients = {"0": {"train_loss": 1e-9, "weight": 0.5}, "1": {"train_loss": 0.0, "weight": 0.5}}
    own = {"client_eval": {"0": rewarded(0.5, 0.25)}}
    return [
        {"round": 0, "eval": rewarded(0.1, 0.2)},
        {"round": 1, "sampled": [0, 1], "clients": clients, "eval": rewarded(0.9, 0.238), **own},
    ]


@pytest.fixture
def folder(tmp_path, lines):
    folder = RunFolder(tmp_path / "run")
    folder.adapter.mkdir(parents=True)
    folder.recipe.write_text(to_yaml(parse_recipe(RECIPE)))
    folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_the_table(lines, folder):
    console = Console(record=True, width=90, file=io.StringIO())
    print_summary(console, parse_recipe(RECIPE), typed(lines), [SAMPLE], folder)
    text = console.export_text()
    told = [line.split() for line in text.splitlines()]
    assert ["reward", "0.200", "1.019", "+0.819"] in told
    assert ["reward", "format", "0.100", "0.900", "+0.800"] in told
    assert ["reward", "length", "0.200", "0.238", "+0.038"] in told
    assert ["reward", "0.200", "1.019"] in told  # of the curve
    assert "loss" not in text
    assert "own reward: held out" in text
    assert "0.625" in text  # 0.5 + 0.125, client 0's own
    assert " truth" not in text  # there is none


def test_the_page_and_the_picture(lines):
    page = run_page(
        parse_recipe(RECIPE), typed(lines), Manifest(), [SAMPLE], recipe_text="", command=""
    )
    text = outline(page).all("main")[0].text
    assert (
        "The held-out reward rose from 0.200 to 1.019 in 1 of 1 rounds; higher is better." in text
    )
    assert "Held-out reward, higher is better" in text
    assert "Reward format" in text
    assert "loss" not in text.replace("--", "")
    assert "Truth" not in text
    assert "Held-out reward, higher is better" in draw_run(typed(lines))


def test_the_status_and_the_dash(folder):
    status = Watch(folder.path).look()
    facts = facts_of(status)
    assert facts["rewards"] == [[0, pytest.approx(0.2)], [1, pytest.approx(1.019)]]
    assert facts["losses"] == [[0, pytest.approx(-0.2)], [1, pytest.approx(-1.019)]]
    view = view_of(status)
    assert (view.leads, view.base) == ("reward", pytest.approx(0.2))
    assert ("Held-out reward", "0.200 to 1.019") in view.facts
    assert ("Held-out reward length", "0.200 to 0.238") in view.facts
    console = Console(file=io.StringIO(), width=120)
    print_status(console, view)
    assert "Held-out reward, higher is better" in console.file.getvalue()
    assert "Held-out reward from 0.200 to 1.019" in Source(folder.path).view()["chart"]


def test_the_live_lines(lines):
    console = Console(file=io.StringIO(), width=200)
    base, first = typed(lines)
    with LiveView(console, parse_recipe(RECIPE), animate=False) as live:
        live(RunStarted([base]))
        live(RoundFinished(first))
    said = console.file.getvalue()
    assert "base reward 0.200; 1 rounds to go" in said
    assert ": reward 1.019 (base 0.200)" in said


def test_a_little_more_reward_looks_little():
    """The axis of a reward holds 0 and 1: a hundredth is no jump from bottom to top."""

    def rise(of):
        dots = outline(loss_chart([(0, 0.50), (1, 0.51)], 0.5, of=of)).all("circle")
        first, last = (float(dot.attributes["cy"]) for dot in dots)
        return first - last

    assert rise("loss") > 100
    assert 0 < rise("reward") < 4
    assert math.isclose(rise("reward"), 0.01 * 188 / 1.2, abs_tol=0.2)  # by hand: a tenth beyond
