"""The frame of a page: head, style, script, and a policy that lets nothing else run."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files

from fedtune.report.pages.markup import Child, Html, join, line, script_json, tag


def document(
    title: str,
    body: Child,
    *,
    styles: Sequence[str],
    scripts: Sequence[str],
    data: object = None,
    asks_server: bool = False,
) -> str:
    """Write one self-contained page.

    The policy in its head names the hashes of the page's own style and script, so that whatever
    else might slip in is neither run nor fetched.

    Args:
        title: For the tab; escaped.
        body: What stands in the page.
        styles: Files of this package, laid end to end.
        scripts: Files of this package, laid end to end.
        data: For the script, as JSON in the element ``data``; finite numbers only.
        asks_server: Whether the script may ask the server that the page came from, and no other.

    Returns:
        The whole HTML document, ending in a newline.
    """
    style, script = (Html("".join(_read(name) for name in names)) for names in (styles, scripts))
    policy = policy_of(styles, scripts, asks_server=asks_server)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", line(title)),
        tag("style", style),
    )
    content = tag(
        "body",
        body,
        tag("script", script_json(data), type="application/json", id="data"),
        tag("script", script),
    )
    return f"<!doctype html>\n{tag('html', head, content, lang='en')}\n"


def policy_of(styles: Sequence[str], scripts: Sequence[str], *, asks_server: bool = False) -> str:
    """The policy of a page of `document`, for who sends it in a header too."""
    style, script = ("".join(_read(name) for name in names) for names in (styles, scripts))
    connect = "connect-src 'self'; " * asks_server
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; {connect}"
        "base-uri 'none'; form-action 'none'"
    )


def command_box(command: str) -> Html:
    """Write a command that is to be typed as it stands; the script adds a button to copy it."""
    return tag("div", tag("pre", tag("code", command), tabindex="0"), class_="command")


def facts_list(facts: Sequence[tuple[str, Child]]) -> Html:
    """Write labels and what belongs to each."""
    rows = (tag("div", tag("dt", label), tag("dd", value)) for label, value in facts)
    return tag("dl", rows, class_="facts")


def foldable(summary: str, *children: Child, open_: bool = False) -> Html:
    """Write a note that opens on a click."""
    return tag("details", tag("summary", summary), join(*children), open=open_)


def _read(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
