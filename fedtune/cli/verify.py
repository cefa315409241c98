"""`fedtune verify`: whether a run's record hangs together, and counts what a node sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from fedtune.cli.console import err, one_screen_errors, out

if TYPE_CHECKING:
    from fedtune.trust.finding import Finding


def verify(
    path: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a copy of one.")],
    node: Annotated[
        Path | None, typer.Option(help="Your node's folder: was counted what it sent?")
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(help="ca.pem of the deployment; default: the node's.")
    ] = None,
    deployment: Annotated[
        Path | None, typer.Option(help="deployment.json: are the clients its nodes, in its order?")
    ] = None,
    run: Annotated[
        str | None, typer.Option(metavar="ID", help="How the run's number has to begin.")
    ] = None,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Run all rounds again from the kept replies.")
    ] = False,
    replies: Annotated[
        Path | None, typer.Option(help="Where those are; default: kept_replies in the run folder.")
    ] = None,
) -> None:
    """Check a run's record: by itself, by the server's signature, by your node's own log.

    fedtune verify runs/three_nodes --node nodes/node-01

    Of a run folder recipe.yaml, manifest.json, metrics.jsonl, signature.json and adapter/ are
    looked at, and with --recompute kept_replies/. Exit status 1: something speaks against it.
    """
    with one_screen_errors():
        from fedtune.trust.verifying import Witnesses, verified

        witnesses = Witnesses(
            node=node,
            authority=ca or (node / "ca.pem" if node else None),
            deployment=deployment,
            run=run,
            replies=replies,
            recompute=recompute,
        )
        wrong = _print(verified(path, witnesses))
    if wrong:
        raise typer.Exit(1)
    err.print("[green]nothing speaks against this record[/green]")


def _print(findings: Iterator[Finding]) -> int:
    """Print what was found as it is found; how much of it was wrong."""
    wrong = 0
    for found in findings:
        wrong += found.wrong
        to, sign = (err, "[red]no[/red] ") if found.wrong else (out, "")
        to.print(f"{sign}{escape(found.text)}", soft_wrap=True)
    return wrong
