"""Proves what strangers' words and odd numbers become. Not how a real terminal draws them."""

import math
from io import BytesIO, StringIO, TextIOWrapper

import pytest
from rich.console import Console

from fedtune.report.text import (
    ASCII,
    UNICODE,
    clean,
    duration,
    figure,
    marks_for,
    number,
    percent,
    size,
    sparkline,
    thin,
)


def test_clean_takes_controls_and_direction_overrides_out():
    evil = "\x1b[2Jgone\r\nbad\x00\u202eevil\u2028end\ud800 \x9b1m"
    assert clean(evil) == "[2Jgone bad evil end 1m"


def test_clean_keeps_markup_as_plain_words():
    assert clean("[bold]loud[/bold] [link=http://x]y[/]") == "[bold]loud[/bold] [link=http://x]y[/]"


def test_clean_bounds_the_length():
    assert clean("x" * 10**6, limit=10) == "xxxxxxx..."
    assert clean("x" * 10, limit=10) == "x" * 10


def test_clean_writes_what_the_encoding_can():
    assert clean("naïve ✓", encoding="ascii") == "na?ve ?"


@pytest.mark.parametrize("value", [None, "3", True, math.nan, math.inf, [], 10**400])
def test_number_takes_only_finite_numbers(value):
    assert number(value) is None


def test_figures_are_short_whatever_a_client_reports():
    assert figure(5.7406) == "5.741"
    assert figure(-0.4031) == "-0.403"
    assert figure(465.778) == "465.8"
    assert figure(1e308) == "1.0e+308"
    assert figure(0.0) == "0.000"
    assert figure(math.nan) == "nan"
    assert figure("[bold]") == "-"
    assert figure(None) == "-"
    assert percent(0.1234) == "12.3 %"


def test_units():
    assert size(999) == "999 B"
    assert size(1000) == "1.0 kB"
    assert size(999_960) == "1.0 MB"  # 999.96 kB would round to 1000.0 kB
    assert size(3_153_920) == "3.2 MB"
    assert duration(59.4) == "0:59"
    assert duration(3_725) == "1:02:05"  # 3600 + 2 * 60 + 5
    assert duration(None, none="?") == "?"


def test_sparkline_spans_the_lowest_to_the_highest():
    # 8 bars: 0 -> bar 0, 7 -> bar 7, 3.5 -> round(3.5) = 4 -> bar 4
    assert sparkline([7, 3.5, 0]) == "█▅▁"
    assert sparkline([7, 3.5, 0], marks=ASCII) == "#+_"


def test_sparkline_of_no_spread_or_no_number():
    assert sparkline([]) == ""
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([1.0, math.nan, 0.0]) == "█✗▁"
    assert sparkline([math.inf, None]) == "✗✗"
    assert sparkline([-1e308, 1e308]) == "▁▁"  # their difference is no float


def test_thin_keeps_the_ends():
    # step = 99 / 3 = 33: positions 0, 33, 66, 99
    assert thin(list(range(100)), 4) == [0, 33, 66, 99]
    assert thin([1, 2], 4) == [1, 2]
    assert len(sparkline(list(range(100)), width=10)) == 10


def test_marks_fit_the_encoding():
    assert marks_for(Console(file=StringIO())) is UNICODE
    latin = TextIOWrapper(BytesIO(), encoding="latin-1")
    assert marks_for(Console(file=latin)) is ASCII
