"""`fedtune report`: one self-contained HTML page of a run, or of a bench."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from fedtune.cli.console import one_screen_errors, out, short


def report(
    path: Annotated[
        Path, typer.Argument(metavar="RUN_DIR", help="The folder of a run, or of a bench.")
    ],
) -> None:
    """Write one HTML page that needs no network: report.html of a run, bench.html of a bench.

    Of a run in stages, one for each stage that has begun.

    fedtune report runs/quickstart
    """
    with one_screen_errors():
        from fedtune.report.pages.writing import write_pages

        for page in write_pages(path.expanduser().absolute()):
            out.print(escape(short(page)), soft_wrap=True, highlight=False)
