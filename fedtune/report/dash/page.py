"""The page's frame, which the script fills, and what it is filled with."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedtune.report.pages.chart import loss_chart
from fedtune.report.pages.render import page, policy_of
from fedtune.report.status import Watch
from fedtune.report.status_clients import HEADS, LEGEND
from fedtune.report.status_stages import StagesWatch, watch_folder
from fedtune.report.status_words import View, view_of
from fedtune.report.text import clean

STYLES = ("page.css", "chart.css", "run.css", "dash.css")
SCRIPTS = ("copy.js", "dash.js", "wide.js")
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
        """The run as it stands: the fields of `View`, and its curve as ``chart``, for JSON."""
        with self._lock:
            if self._known is None or self._clock() - self._known[0] > FRESH_S:
                self._known = self._clock(), _drawn(self._look())
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
    return page(
        "dash.html.jinja",
        f"{view['state']}: {view['name']}",
        styles=STYLES,
        scripts=SCRIPTS,
        data=view,
        asks_server=True,
        heads=HEADS,
        legend=LEGEND,
    )


def data_json(view: dict[str, Any]) -> str:
    """The view as the script asks for it."""
    return json.dumps(view, allow_nan=False, separators=(",", ":"))


def _drawn(view: View) -> dict[str, Any]:
    """The fields of a view, and its curve as a picture."""
    told = asdict(view)
    return told | {"chart": loss_chart(view.curve, view.base, of=view.leads)}
