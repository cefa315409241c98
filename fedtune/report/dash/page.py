"""The page's frame, which the script fills, and what it is filled with."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedtune.report.pages.markup import Html, tag
from fedtune.report.pages.shell import document, policy_of
from fedtune.report.status import Watch
from fedtune.report.status_clients import HEADS, LEGEND
from fedtune.report.status_stages import StagesWatch, watch_folder
from fedtune.report.status_words import View, view_of
from fedtune.report.text import clean

STYLES = ("page.css", "run.css", "dash.css")
SCRIPTS = ("copy.js", "curve.js", "dash.js")
POLICY = policy_of(STYLES, SCRIPTS, asks_server=True) + "; frame-ancestors 'none'"
FRESH_S = 0.5  # however many look, the folder is read no more often
GONE = "The folder is no longer there. What stands below is the last that was seen of it."


class Source:
    """What the page shows, read anew from a run's folder at most twice a second.

    A folder that disappears or is damaged is told of, and looked at again the next time.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._watch: Watch | StagesWatch | None = None
        self._known: tuple[float, dict[str, Any]] | None = None

    def view(self) -> dict[str, Any]:
        """The run as it stands: the fields of `View`, for `json.dumps` without NaN."""
        with self._lock:
            if self._known is None or self._clock() - self._known[0] > FRESH_S:
                self._known = self._clock(), asdict(self._look())
            return self._known[1]

    def _look(self) -> View:
        name = clean(self._path.name, limit=80)
        try:
            if self._watch is None:
                self._watch = watch_folder(self._path)
            return view_of(self._watch.look())
        except FileNotFoundError:
            self._watch = None
            return View(name, "", "gone", GONE)
        except (OSError, ValueError) as error:
            return View(name, "", "damaged", clean(error, limit=1000))


def dash_page(view: dict[str, Any]) -> str:
    """Write the page with a first view in it."""
    noscript = "This page needs its script; fedtune status shows the same in a terminal."
    body = tag(
        "main",
        tag("header", tag("h1", id="name"), tag("p", id="rule", class_="quiet")),
        tag("noscript", tag("p", noscript, class_="notice")),
        _now(),
        tag(
            "div",
            tag("section", tag("h2", "So far"), tag("dl", id="facts", class_="facts")),
            tag("section", tag("h2", id="curve-title"), tag("div", id="curve"), id="curve-part"),
            class_="columns",
        ),
        _table("stages", "Stages", ("stage", "task", "state", "rounds", "held out")),
        tag(
            "div",
            _table("clients", "Clients", HEADS, tag("p", LEGEND, class_="quiet fine")),
            _refusals(),
            class_="columns wide",
        ),
    )
    title = f"{view['state']}: {view['name']}"
    return document(title, body, styles=STYLES, scripts=SCRIPTS, data=view, asks_server=True)


def data_json(view: dict[str, Any]) -> str:
    """The view as the script asks for it."""
    return json.dumps(view, allow_nan=False, separators=(",", ":"))


def _now() -> Html:
    return tag(
        "section",
        tag("p", "", id="lost", class_="notice", role="status", hidden=True),
        tag("p", tag("span", id="state"), " ", tag("span", id="say"), class_="lead", role="status"),
        tag("progress", id="share", max="1", value="0", aria_label="Share of the rounds"),
        tag("p", id="why", class_="notice", hidden=True),
        tag("p", id="silenced", class_="notice", hidden=True),
        tag("div", id="commands"),
        class_="now",
    )


def _refusals() -> Html:
    title, reasons = tag("h2", "Refused, and why"), tag("ul", id="refusals", class_="refusals")
    return tag("section", title, reasons, id="refusals-part", hidden=True)


def _table(name: str, title: str, heads: tuple[str, ...], *below: Html) -> Html:
    columns = tag("thead", tag("tr", [tag("th", head, scope="col") for head in heads]))
    table = tag("table", columns, tag("tbody", id=name), class_="clients")
    box = tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=title)
    note = tag("p", id=f"{name}-left-out", class_="quiet", hidden=True)
    return tag("section", tag("h2", title), box, note, below, id=f"{name}-part", hidden=True)
