"""Where commands write, how they refuse, and the arguments that several of them take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment

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
    """Turn what a user can mend into a message, and leave tracebacks to what is our fault."""
    try:
        yield
    except (ValueError, OSError) as error:
        for line in str(error).splitlines() or [type(error).__name__]:
            err.print(f"[red]error[/red] {escape(line)}", soft_wrap=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        err.print("\nstopped")
        raise typer.Exit(status_when_stopped()) from None


def short(path: Path) -> str:
    """The path as a user would type it here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
