"""Pages from templates: every text in them is escaped, and no script but their own may run."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fedtune.report.text import clean, figure

BREAKS = re.compile(r"(?<=[_/\-])")  # a label may break after its underscores and hyphens
TEMPLATES = Environment(
    loader=PackageLoader("fedtune.report.pages"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters["figure"] = figure
TEMPLATES.filters["parts"] = lambda label: [part for part in BREAKS.split(label) if part]


def fill(template: str, **given: object) -> Markup:
    """Fill a template of this package; whatever is no `Markup` is escaped where it stands."""
    return Markup(TEMPLATES.get_template(template).render(given))


def page(
    template: str,
    title: str,
    *,
    styles: Sequence[str],
    scripts: Sequence[str],
    data: object = None,
    asks_server: bool = False,
    **given: object,
) -> str:
    """Fill the template of a self-contained page.

    The policy in its head names the hashes of the page's own style and script, so that whatever
    else might slip in is neither run nor fetched.

    Args:
        template: It extends ``base.html.jinja``.
        title: For the tab.
        styles: Files of this package, laid end to end.
        scripts: Files of this package, laid end to end.
        data: For the script, as JSON in the element ``data``; finite numbers only.
        asks_server: Whether the script may ask the server that the page came from, and no other.
        **given: What the template shows.

    Returns:
        The whole HTML document, ending in a newline.
    """
    style, script = (Markup("".join(map(read, names))) for names in (styles, scripts))
    policy = policy_of(styles, scripts, asks_server=asks_server)
    head = {"title": line(title), "policy": policy, "style": style, "script": script}
    return str(fill(template, **head, data=script_json(data), **given))


def policy_of(styles: Sequence[str], scripts: Sequence[str], *, asks_server: bool = False) -> str:
    """The policy of a page, for who sends it in a header too."""
    style, script = ("".join(map(read, names)) for names in (styles, scripts))
    connect = "connect-src 'self'; " * asks_server
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; {connect}"
        "base-uri 'none'; form-action 'none'"
    )


def line(words: object, limit: int = 300) -> str:
    """Make one line of a stranger's words: no controls, no bidi overrides; see `clean`."""
    return clean(words, limit=limit)


def classed(names: str | Sequence[str]) -> Markup:
    """The class attribute of an element, empty names left out; nothing where all are."""
    given = [names] if isinstance(names, str) else names
    told = " ".join(name for name in given if name)
    return Markup(' class="{}"').format(told) if told else Markup()


def script_json(value: object) -> Markup:
    """Write a value as JSON that may stand inside a <script> element.

    Raises:
        ValueError: If a number is not finite; the caller says what stands in its place.
    """
    text = json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    for sign in "<>&":  # no "</script", no "<!--": JSON reads the escapes back
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def read(name: str) -> str:
    """The text of a file of this package."""
    return (files(__package__) / name).read_text(encoding="utf-8")


TEMPLATES.filters["classed"] = classed


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
