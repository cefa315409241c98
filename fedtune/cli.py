"""The command line. Heavy imports wait until a command needs them: `--help` answers at once."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import fedtune

if TYPE_CHECKING:
    from fedtune.federation.folder import RunFolder
    from fedtune.recipe import Recipe

out = Console()
err = Console(stderr=True)
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="""Fine-tune one Hugging Face model together with people you do not trust.

    [bold]fedtune run quickstart[/bold] shows it: ten clients, two of them liars, no network.
    """,
)
nano_app = typer.Typer(no_args_is_help=True, help="The embedded base model.")
app.add_typer(nano_app, name="nano")

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


def _version(asked: bool) -> None:
    if asked:
        out.print(fedtune.__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")
    ] = False,
) -> None:
    pass


class Listed(StrEnum):
    """What `fedtune list` can list."""

    AGGREGATORS = "aggregators"
    MIXINGS = "mixings"
    ATTACKS = "attacks"
    TASKS = "tasks"
    RECIPES = "recipes"


@app.command()
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
    """Run a recipe, or go on with a run that was stopped.

    fedtune run quickstart aggregator.name=krum federation.num_rounds=4

    fedtune run --resume runs/quickstart
    """
    with _one_screen_errors():
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


@app.command()
def check(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Say what is wrong with a recipe before any model is loaded, and print it resolved."""
    from fedtune.recipe import load_recipe, to_yaml

    with _one_screen_errors():
        loaded = load_recipe(recipe, overrides or [])
        _check(loaded)
        out.print(to_yaml(loaded), markup=False, highlight=False, end="", soft_wrap=True)
        err.print("[green]nothing wrong is known of this recipe[/green]")


@app.command("list")
def list_(
    what: Annotated[Listed | None, typer.Argument(help="Default: everything.")] = None,
    long: Annotated[
        bool, typer.Option(help="Rules and mixings: condition, kappa, cost, reading of the paper.")
    ] = False,
) -> None:
    """List what a recipe can name: name, one line, paper.

    fedtune list aggregators --long
    """
    from fedtune.listing import facts_of, rows_of
    from fedtune.report.rule_facts import facts_table

    with _one_screen_errors():
        for kind in [what] if what else list(Listed):
            if long and (what or kind in {Listed.AGGREGATORS, Listed.MIXINGS}):
                for name, facts in facts_of(kind.value):
                    out.print(facts_table(name, facts))
                continue
            table = Table(title=kind.value, title_justify="left")
            for column in ("name", "what it is", "source"):
                table.add_column(column, overflow="fold")
            for row in rows_of(kind.value):
                table.add_row(*(escape(cell) for cell in row))
            out.print(table)


@app.command()
def evaluate(
    path: AdapterPath,
    recipe: Annotated[
        str | None, typer.Option(help="Recipe to measure by; default: the run's own.")
    ] = None,
) -> None:
    """Measure an adapter on held-out rows: the run's own figures again, to the digit."""
    with _one_screen_errors():
        from fedtune.evaluation.adapter import find_adapter
        from fedtune.evaluation.heldout import measure_adapter
        from fedtune.report.measured import print_measured

        found = find_adapter(path, recipe)
        if found.recipe is None:
            raise ValueError(
                f"{path} stands alone: say by which recipe to measure it, --recipe NAME"
            )
        with err.status("measuring"):
            measured = measure_adapter(found.folder, found.recipe)
        print_measured(
            out,
            measured.base.as_dict(),
            measured.adapter.as_dict(),
            [figures.as_dict() for figures in measured.clients],
        )


@app.command()
def merge(
    path: AdapterPath,
    target: Annotated[Path, typer.Argument(metavar="OUT", help="A folder to be made.")],
) -> None:
    """Write base + adapter as a plain Hugging Face model folder."""
    with _one_screen_errors():
        from fedtune.evaluation.adapter import base_of, find_adapter
        from fedtune.evaluation.merge import merge_adapter
        from fedtune.recipe import Model

        found = find_adapter(path)
        model = found.recipe.model if found.recipe else Model(name_or_path=base_of(found))
        with err.status("merging"):
            merge_adapter(found.folder, model, target)
        out.print(f"merged model: {escape(str(target))}")


@nano_app.command("build")
def build_nano(
    target: Annotated[Path, typer.Argument(metavar="OUT", help="A folder to be made.")],
    steps: Annotated[
        int | None, typer.Option(min=1, help="Default: those of the shipped one.")
    ] = None,
) -> None:
    """Make the embedded model again, from the docstrings of the packages installed here."""
    with _one_screen_errors():
        from fedtune.report.nano_build import build_with_progress

        build_with_progress(out, target, steps)


def main() -> None:
    """Entry point of the `fedtune` command."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DATASETS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.simplefilter("ignore", FutureWarning)  # of the libraries, to their own developers
    app()


def _start(name: str, overrides: list[str]) -> None:
    from fedtune.recipe import load_recipe

    recipe = load_recipe(name, overrides)
    with err.status("checking the recipe"):
        _check(recipe)
        from fedtune.federation.folder import RunFolder

        wanted = recipe.output_dir.expanduser().absolute()
        folder, recipe = RunFolder.create(recipe)
    if folder.path != wanted:
        err.print(f"{escape(str(wanted))} already holds a run, and stays as it is")
    _watch(recipe, folder)


def _resume(path: Path) -> None:
    from fedtune.federation.folder import RunFolder

    folder, recipe = RunFolder.open(path)
    _watch(recipe, folder)


def _watch(recipe: Recipe, folder: RunFolder) -> None:
    with err.status("loading torch, transformers, trl"):
        from fedtune.federation.engines import execute
        from fedtune.federation.events import RunStoppedError
        from fedtune.report.finished import print_run
        from fedtune.report.live import LiveView

    again = f"[bold]fedtune run --resume {escape(_short(folder.path))}[/bold]"
    try:
        with LiveView(err, recipe) as view:
            execute(recipe, folder, view)
    except KeyboardInterrupt:
        err.print(f"\nstopped; nothing finished is lost. Go on with: {again}")
        raise typer.Exit(130) from None
    except (RunStoppedError, OSError, MemoryError) as error:
        err.print(f"[red]the run stopped:[/red] {escape(str(error))}")
        if getattr(error, "resumable", True):
            err.print(f"Go on with: {again}")
        raise typer.Exit(1) from None
    print_run(out, recipe, folder)


def _check(recipe: Recipe) -> None:
    from fedtune.federation.preflight import find_problems
    from fedtune.federation.risks import find_risks
    from fedtune.recipe import RecipeError

    if problems := find_problems(recipe):
        raise RecipeError(problems)
    for risk in find_risks(recipe):
        err.print(f"[yellow]note[/yellow] {escape(risk)}")


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


@contextmanager
def _one_screen_errors() -> Iterator[None]:
    """Turn what a user can mend into a message, and leave tracebacks to what is our fault."""
    try:
        yield
    except (ValueError, OSError) as error:
        for line in str(error).splitlines() or [type(error).__name__]:
            err.print(f"[red]error[/red] {escape(line)}", soft_wrap=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        err.print("\nstopped")
        raise typer.Exit(130) from None


if __name__ == "__main__":
    main()
