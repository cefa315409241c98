"""`fedtune run`: a recipe from its start, or from its last checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from fedtune.cli.check import tell_risks
from fedtune.cli.console import Overrides, err, one_screen_errors, out, short, tell_stopped
from fedtune.stopping import status_when_stopped, stopped_by_sigterm

if TYPE_CHECKING:
    from fedtune.recipe import Recipe
    from fedtune.records.folder import RunFolder


def run(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a shipped recipe."),
    ] = None,
    overrides: Overrides = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN_DIR", help="Go on from a run's last checkpoint.")
    ] = None,
) -> None:
    """Run a recipe, in stages or not, or go on with a run that was stopped.

    fedtune run quickstart aggregator.name=krum federation.num_rounds=4

    fedtune run --resume runs/quickstart

    Ctrl-C and SIGTERM stop it at its last checkpoint, with exit status 130 and 143.
    """
    with stopped_by_sigterm(), one_screen_errors():
        if resume is not None:
            if recipe is not None:
                raise ValueError(
                    "--resume keeps the run's own recipe: give no RECIPE, no overrides"
                )
            _resume(resume)
        elif recipe is None:
            raise ValueError("run needs a RECIPE or --resume RUN_DIR; see: fedtune list recipes")
        else:
            _start(recipe, overrides or [])


def _start(name: str, overrides: list[str]) -> None:
    from fedtune.cli.run_stages import start_stages
    from fedtune.recipe import Recipe
    from fedtune.recipe.stages import load

    recipe = load(name, overrides)
    if not isinstance(recipe, Recipe):
        start_stages(recipe)
        return
    with err.status("checking the recipe"):
        tell_risks(recipe)
        from fedtune.records.folder import RunFolder

        wanted = recipe.output_dir.expanduser().absolute()
        folder, recipe = RunFolder.create(recipe)
    if folder.path != wanted:
        err.print(f"{escape(str(wanted))} already holds a run, and stays as it is")
    _watch(recipe, folder)


def _resume(path: Path) -> None:
    from fedtune.cli.run_stages import resume_stages
    from fedtune.records.folder import RunFolder, holds_stages

    if holds_stages(path.expanduser()):
        resume_stages(path)
        return
    folder, recipe = RunFolder.open(path)
    _watch(recipe, folder)


def _watch(recipe: Recipe, folder: RunFolder) -> None:
    with err.status("loading torch, transformers, trl"):
        from fedtune import api
        from fedtune.records.events import RunStoppedError
        from fedtune.records.failures import FILE
        from fedtune.report.finished import print_run
        from fedtune.report.live import LiveView

    again = f"[bold]fedtune run --resume {escape(short(folder.path))}[/bold]"
    try:
        with LiveView(err, recipe) as view:
            api.go_on(recipe, folder, view)
    except KeyboardInterrupt:
        err.print(f"\nstopped; nothing finished is lost. Go on with: {again}")
        raise typer.Exit(status_when_stopped()) from None
    except (RunStoppedError, OSError, MemoryError) as error:
        tell_stopped("the run", error, again)
        raise typer.Exit(1) from None
    print_run(out, recipe, folder)
    if (trace := folder.path / FILE).is_file():
        err.print(f"[yellow]note[/yellow] some clients failed; why lies in {escape(short(trace))}")
