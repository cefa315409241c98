"""`fedtune verify`: whether a run's record hangs together, and counts what a node sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from fedtune.cli.console import err, one_screen_errors, out

if TYPE_CHECKING:
    from fedtune.federation.folder import RunFolder
    from fedtune.recipe import Recipe


def verify(
    path: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a copy of one.")],
    node: Annotated[
        Path | None, typer.Option(help="Your node's folder: was counted what it sent?")
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(help="ca.pem of the deployment; default: the node's.")
    ] = None,
) -> None:
    """Check a run's record: each line by the next, its end by the server's signature.

    fedtune verify runs/three_nodes --node nodes/node-01

    Of a run folder only recipe.yaml, manifest.json, metrics.jsonl and signature.json are looked at.
    Exit status 1: something is not as the record says.
    """
    with one_screen_errors():
        from fedtune.federation.folder import RunFolder

        folder, recipe = RunFolder.open(path)
        problems = list(_problems(folder, recipe, node, ca))
    for problem in problems:
        err.print(f"[red]no[/red] {escape(problem)}", soft_wrap=True)
    if problems:
        raise typer.Exit(1)
    err.print("[green]nothing speaks against this record[/green]")


def _problems(
    folder: RunFolder, recipe: Recipe, node: Path | None, ca: Path | None
) -> Iterator[str]:
    from fedtune.federation.record import bad_signature, broken_links

    broken = list(broken_links(folder))
    yield from broken
    if broken:
        return
    with folder.metrics.open("rb") as stream:
        out.print(f"record: {sum(1 for _ in stream)} lines, the last {folder.head()}")
    authority = ca or (node / "ca.pem" if node else None)
    if authority is None:
        out.print("signature: not looked at; it needs --node, or --ca")
    elif problem := bad_signature(folder, authority):
        yield problem
    else:
        out.print(f"signature: by the server of {escape(str(authority))}", soft_wrap=True)
    if node is not None:
        yield from _own(folder, recipe, node)


def _own(folder: RunFolder, recipe: Recipe, node: Path) -> Iterator[str]:
    from fedtune.federation.record import trace
    from fedtune.report.text import clean, percent

    client, fates = trace(folder, recipe, node)
    if client is None:
        yield f"the record counts nothing that {node} has sent"
        return
    out.print(f"{escape(str(node))} is client {client}", soft_wrap=True)
    for fate in fates:
        told = f"round {fate.round}"
        if not fate.true:
            yield f"{told}: the record counts a reply that this node has not sent"
        elif not fate.same_start:
            yield f"{told}: this node was given another anchor than the record says"
        elif fate.weight is not None:
            out.print(f"  {told}: counted as sent, weight {percent(fate.weight)}")
        elif fate.reason:
            out.print(f"  {told}: refused: {escape(clean(fate.reason))}", soft_wrap=True)
        else:
            out.print(f"  {told}: not asked")
