"""Proves that a picture is drawn, of what cells, and nothing else. A person judges its looks."""

import math

import numpy as np
import pytest
from matplotlib.image import imread
from typed_records import typed

from fedtune.report.curves import draw_curves, weight_cells


def test_the_picture_is_one_png_of_sane_size_and_not_blank(records, tmp_path):
    draw_curves(typed(records), tmp_path / "curves.png", attackers=[3], title="nnm $x_ [b] \x1b[2J")
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
    pixels = imread(tmp_path / "curves.png")
    height, width, _ = pixels.shape
    assert 1600 <= width <= 2400
    assert 0.35 <= height / width <= 0.6
    for half in (pixels[:, : width // 2], pixels[:, width // 2 :]):
        assert len(np.unique(half[::4, ::4, 0])) > 20


def test_attackers_are_red(records, tmp_path):
    def red_pixels(attackers):
        draw_curves(typed(records), tmp_path / "curves.png", attackers=attackers)
        red, green, blue = np.moveaxis(imread(tmp_path / "curves.png")[..., :3], -1, 0)
        return int(((red > 0.7) & (green < 0.15) & (blue < 0.25)).sum())

    assert red_pixels([]) == 0
    assert red_pixels([3]) > 50


def test_cells_are_shares_times_the_clients_asked(records):
    cells, refused = weight_cells(typed(records[1:]), [0, 1, 2, 3])
    # four asked, so 1 is the fair quarter: 0.5 -> 2, 0.4 -> 1.6, 0.1 -> 0.4
    expected = [[2, 2, 0.8], [1.6, 2, 0.8], [0.4, math.nan, 2.4], [math.nan, 0, math.nan]]
    np.testing.assert_allclose(cells, expected)
    assert refused == [(3, 0), (2, 1), (3, 2)]


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
def test_odd_runs_are_drawn_too(records, tmp_path):
    draw_curves(typed(records), tmp_path / "curves.png", attackers=[1, 50], title="odd")
    assert (tmp_path / "curves.png").stat().st_size > 5000
