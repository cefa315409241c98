"""Proves that strangers' words stay words. What a browser makes of it: tests/browser."""

import json

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from fedtune.report.pages.render import TEMPLATES, classed, fill, line, script_json

EVIL = "</script><script>alert(1)</script>"
ESCAPED = "&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;"


def given(text):
    return TEMPLATES.from_string(text)


def test_text_is_escaped_and_markup_is_not():
    drawn = given("<p title='{{ a }}'>{{ a }}{{ b }}</p>").render(a=EVIL + "'\"", b=Markup("<b/>"))
    assert drawn == f"<p title='{ESCAPED}&#39;&#34;'>{ESCAPED}&#39;&#34;<b/></p>"


def test_a_macro_escapes_once():
    text = "{% import 'macros.html.jinja' as m %}{{ m.quiet(a) }}{{ m.facts([(a, a)]) }}"
    drawn = given(text).render(a=EVIL)
    assert drawn.count(ESCAPED) == 3
    assert "&amp;" not in drawn


def test_what_a_template_is_not_given_is_an_error():
    with pytest.raises(UndefinedError, match="levels"):
        fill("chart.svg.jinja", width=1, height=1, left=1, right=1, title="x")


def test_classes_are_quoted_and_empty_ones_left_out():
    assert classed(("", "a", '"b')) == ' class="a &#34;b"'
    assert classed("") == classed(("", "")) == ""


def test_json_cannot_end_its_element_and_reads_back():
    value = {"label": EVIL + "<!--", "numbers": [1.5, None], "line": "\u2028"}
    text = script_json(value)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value


def test_json_refuses_what_is_not_finite():
    with pytest.raises(ValueError, match="JSON"):
        script_json([float("nan")])


def test_a_line_has_no_controls(evil):
    assert line(evil) == "[bold]trust[/bold] me [2J ]0;owned it is enif"
    assert len(line("x" * 5000)) == 300
