"""Proves what a figure on the page may claim: nothing is rounded up to what holds."""

import re
from importlib.resources import files

import pytest

from fedtune.records.bench_figures import Stat
from fedtune.records.bench_summary import HOLDS
from fedtune.report.pages.gain import STEPS, gain, percent_of, spread, step, with_interval


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.899, "0.89"),  # rounded, it would read as if it held
        (0.9, "0.90"),
        (0.29, "0.29"),  # 100 * 0.29 is 28.999999999999996
        (1.0, "1.00"),
        (-0.251, "−0.26"),
        (-35.4, "−35"),
        (-2e9, "< −99"),
        (None, "–"),
        (float("-inf"), "diverged"),
    ],
)
def test_a_gain_is_rounded_down(value, words):
    assert gain(value) == words


def test_steps_meet_at_their_bounds():
    bounds = [1.2, 0.95, 0.9, 0.8, 0.5, 0.0, -0.001]
    assert [step(value) for value in bounds] == [0, 0, 1, 2, 3, 4, 5]
    assert step(float("-inf")) == 5
    assert step(1 - 0.1 - 1e-16) == 1  # no digit of the arithmetic decides
    assert STEPS[1][0] == HOLDS


def test_an_interval_says_when_there_is_none():
    stat = Stat(mean=0.916, low=0.89, high=0.942, values={"0": 0.9})
    assert spread(stat) == "±0.03"  # half of 0.052 is 0.026
    assert with_interval(stat, as_gain=True) == "0.91 (0.89 to 0.94)"
    assert with_interval(Stat(mean=0.916)) == "0.916 (one seed: no interval)"
    assert spread(None) == ""


def test_a_share_has_no_negative_zero():
    assert percent_of(-0.0004) == "0\u00a0%"
    assert percent_of(0.0181, digits=1) == "1.8\u00a0%"
    assert percent_of(-0.012, digits=1) == "−1.2\u00a0%"


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_every_step_can_be_read(mode):
    """4.5 is what WCAG 2.2 asks of text."""
    css = (files("fedtune.report.pages") / "chart.css").read_text(encoding="utf-8")
    block = css.split("@media")[mode == "dark"]
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
    pairs = [(f"g{i}", f"on{i}") for i in range(6)]
    pairs += [("paper", name) for name in ("ink", "quiet", "accent", "alarm")]
    for ground, ink in pairs:
        assert contrast(colours[ground], colours[ink]) >= 4.5, (ground, ink)


def contrast(one, other):
    lights = sorted((luminance(one), luminance(other)))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
