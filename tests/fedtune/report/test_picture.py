"""Proves what is drawn in a run's picture, and that it is one file. A person judges its looks."""

import math
import xml.etree.ElementTree as ElementTree

import pytest
from typed_records import typed

from fedtune.report.pages.picture import draw_run

SVG = "{http://www.w3.org/2000/svg}"


def drawn(records, **options):
    return ElementTree.fromstring(draw_run(typed(records), **options))


def test_the_picture_is_one_file_with_both_drawings(records, evil):
    text = draw_run(typed(records), attackers=[3], title=f"nnm $x_ <b> & {evil}")
    root = ElementTree.fromstring(text)
    assert root.find(f"{SVG}title").text.startswith("nnm $x_ <b> & [bold]trust[/bold] me [2J")
    assert len(root.findall(f".//{SVG}path[@class='run']")) == 1
    assert len(root.findall(f".//{SVG}rect[@width][@class='crossed']")) >= 3
    assert "href" not in text
    assert "url(" not in text
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    assert 0.3 <= height / width <= 0.6


def test_attackers_are_marked(records):
    def marked(attackers):
        found = drawn(records, attackers=attackers).findall(f".//{SVG}text[@class='attacker']")
        return [one.text for one in found]

    assert marked([]) == []
    assert marked([3]) == ["attacker 3"]


@pytest.mark.parametrize(
    "records",
    [
        [],
        [{"round": 0, "eval": {"loss": 6.0}}],
        [{"round": 0, "eval": {"loss": 6.0}}, {"round": 1, "eval": {"loss": math.inf}}],
        [{"round": 0, "eval": {"loss": 6.0}}, {"round": 1, "eval": {"loss": 6e9}}],
        [{"round": 1, "clients": {"0": {"weight": -0.5}, "1": {"weight": 1.5}}}],
        [{"round": 1, "clients": {"0": {}}, "refused": {"1": "x"}}, {"round": 2}],
        [{"round": 1, "clients": {"0": {"weight": None}, "1": {"weight": None}}}],
        [{"round": 1, "clients": {str(i): {"weight": 0.01} for i in range(100)}}],
    ],
)
def test_odd_runs_are_drawn_too(records):
    assert drawn(records, attackers=[1, 50], title="odd").tag == f"{SVG}svg"
