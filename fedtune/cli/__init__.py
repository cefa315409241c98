"""The command line. Heavy imports wait until a command needs them: `--help` answers at once."""

from __future__ import annotations

import os
import warnings
from typing import Annotated

import typer

import fedtune
from fedtune.cli.bench import bench
from fedtune.cli.check import check
from fedtune.cli.console import out
from fedtune.cli.dash import dash
from fedtune.cli.deploy import deploy_app
from fedtune.cli.explain import explain
from fedtune.cli.init import init
from fedtune.cli.look import evaluate, list_, merge, schema
from fedtune.cli.nano import nano_app
from fedtune.cli.node import node_app
from fedtune.cli.push import push
from fedtune.cli.report import report
from fedtune.cli.run import run
from fedtune.cli.status import status
from fedtune.cli.verify import verify

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="""Fine-tune one Hugging Face model together with people you do not trust.

    [bold]fedtune run quickstart[/bold] shows it: ten clients, two of them attackers, no network.
    """,
)


def _version(asked: bool) -> None:
    if asked:
        out.print(fedtune.__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command()(init)
app.command()(run)
app.command()(check)
app.command("list")(list_)
app.command()(explain)
app.command()(schema)
app.command()(bench)
app.command()(evaluate)
app.command()(report)
app.command()(status)
app.command()(dash)
app.command()(merge)
app.command()(push)
app.command()(verify)
app.add_typer(nano_app, name="nano")
app.add_typer(deploy_app, name="deploy")
app.add_typer(node_app, name="node")


def main() -> None:
    """Entry point of the `fedtune` command."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DATASETS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.simplefilter("ignore", FutureWarning)  # of the libraries, to their own developers
    app()
