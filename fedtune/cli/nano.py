"""`fedtune nano`: the embedded base model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedtune.cli.console import one_screen_errors, out

nano_app = typer.Typer(no_args_is_help=True, help="The embedded base model.")


@nano_app.command("build")
def build_nano(
    target: Annotated[Path, typer.Argument(metavar="OUT", help="A folder to create.")],
    steps: Annotated[
        int | None, typer.Option(min=1, help="Default: those of the shipped one.")
    ] = None,
) -> None:
    """Make the embedded model again, from the docstrings of the packages installed here."""
    with one_screen_errors():
        from fedtune.report.nano_build import build_with_progress

        build_with_progress(out, target, steps)
