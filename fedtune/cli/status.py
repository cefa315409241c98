"""`fedtune status`: where a run stands, from its folder alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from fedtune.cli.console import one_screen_errors, out

RUNS = Path("runs")

RunDir = Annotated[
    Path | None,
    typer.Argument(metavar="[RUN_DIR]", help="A run's folder; default: the newest under runs/."),
]


def status(
    path: RunDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for machines.")] = False,
) -> None:
    """Say where a run stands, and how to go on: rounds, losses, clients, refusals, traffic.

    Exit code 0: it is running or finished; 1: it stopped; 2: there is no such run, or its folder
    is damaged.

    fedtune status runs/quickstart
    """
    with one_screen_errors():
        from fedtune.report.status_facts import facts_of
        from fedtune.report.status_screen import print_status
        from fedtune.report.status_stages import watch_folder
        from fedtune.report.status_words import view_of

        with clean_errors():  # what lies in the folder may be quoted in them
            found = watch_folder(find_folder(path)).look()
        if as_json:
            typer.echo(json.dumps(facts_of(found), allow_nan=False))
        else:
            print_status(out, view_of(found))
    if found.state == "stopped":
        raise typer.Exit(1)


def find_folder(path: Path | None) -> Path:
    """The folder that was named, or the newest run's.

    Raises:
        FileNotFoundError: If none was named, and there is none.
    """
    from fedtune.report.status_stages import newest_run

    return (newest_run(RUNS) if path is None else path.expanduser()).absolute()


@contextmanager
def clean_errors() -> Iterator[None]:
    """Keep control characters of a stranger's file off the terminal."""
    from fedtune.report.text import clean

    try:
        yield
    except (ValueError, OSError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise ValueError("\n".join(clean(line, limit=400) for line in lines[:20])) from None
