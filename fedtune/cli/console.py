"""Where commands write, how they refuse, and the arguments that several of them take."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from click import ClickException
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment

from fedtune.durable import make_folder, write_whole
from fedtune.failing import account_of, one_line
from fedtune.plain import plain
from fedtune.stopping import status_when_stopped


class PlainConsole(Console):
    """A console that writes no sign of a text which does not print, whoever wrote the text."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """As rich does; what moves the cursor there is no text, and stays."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                lines = "\n".join(map(plain, segment.text.expandtabs().split("\n")))
                yield Segment(lines, segment.style)


_PRIVATE = 0o700

out = PlainConsole()
err = PlainConsole(stderr=True)

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a shipped recipe.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[section.key=value]...", help="Laid over the recipe."),
]
AdapterPath = Annotated[
    Path, typer.Argument(metavar="RUN_OR_ADAPTER", help="A run folder, or a PEFT folder.")
]


@contextmanager
def one_screen_errors() -> Iterator[None]:
    """Turn what a user can mend into a message, and all else into one screen and a file."""
    try:
        yield
    except (ValueError, OSError) as error:
        for line in str(error).splitlines() or [type(error).__name__]:
            err.print(f"[red]error[/red] {escape(line)}", soft_wrap=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        err.print("\nstopped")
        raise typer.Exit(status_when_stopped()) from None
    except (typer.Exit, typer.Abort, ClickException):
        raise
    except Exception as error:
        err.print(f"[red]error[/red] {escape(one_line(error))}", soft_wrap=True)
        err.print(f"nobody foresaw this; {escape(_kept(error))}", soft_wrap=True)
        raise typer.Exit(1) from None


def _kept(error: Exception) -> str:
    """Write the traceback into the user's cache; where that fails, it is shown."""
    from fedtune.nano.python_docs import cache_file

    account = account_of(error, " ".join(map(shlex.quote, sys.argv)))
    path = cache_file().parent / "traceback.txt"
    try:
        make_folder(path.parent, mode=_PRIVATE)
        write_whole(path, account + "\n")
    except OSError:
        return account
    return f"the traceback lies in {path}"


def tell_stopped(what: str, error: BaseException, again: str) -> None:
    """Say why a run stopped, where the traceback lies, and how to go on."""
    err.print(f"[red]{what} stopped:[/red] {escape(str(error))}", soft_wrap=True)
    if (trace := getattr(error, "traceback", None)) is not None:
        err.print(f"the traceback lies in {escape(short(trace))}", soft_wrap=True)
    if getattr(error, "resumable", True):
        err.print(f"Go on with: {again}", soft_wrap=True)


def short(path: Path) -> str:
    """The path as a user would type it here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
