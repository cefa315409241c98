"""`fedtune node`: for the owner of one node of a federation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from fedtune.cli.console import Overrides, RecipeName, err, one_screen_errors, out

if TYPE_CHECKING:
    from fedtune.node.joining import Outlook

node_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="""For the owner of a node: what a federation would do on this machine.

    [bold]fedtune node check three_nodes nodes/node-00[/bold] tells it before you join.
    """,
)

NodeFolder = Annotated[
    Path, typer.Argument(metavar="NODE", help="Your node's folder: node.yaml, node.key, start.sh.")
]


@node_app.command()
def check(recipe: RecipeName, folder: NodeFolder, overrides: Overrides = None) -> None:
    """Tell what a recipe would do here: what you refuse, model, disk, memory, time, traffic.

    fedtune node check three_nodes nodes/node-00

    Nothing is sent and no weight is loaded; a model that is not here is fetched, to weigh it. Exit
    status 1: this node would refuse, or fail.
    """
    with one_screen_errors():
        from fedtune.node.joining import look_ahead
        from fedtune.recipe import load_recipe

        with err.status("looking ahead"):
            found = look_ahead(load_recipe(recipe, overrides or ()), folder.expanduser())
        for line in _lines(found):
            out.print(escape(line), highlight=False, soft_wrap=True)
        for problem in (*found.refused, *found.problems):
            err.print(f"[red]no[/red] {escape(problem)}", soft_wrap=True)
        if not found.may_join:
            raise typer.Exit(1)
        err.print("[green]this node would take part[/green]")


@node_app.command()
def refill(folder: NodeFolder) -> None:
    """Begin a new day of your node's limits now, and say what was used of this one.

    fedtune node refill nodes/node-00

    For a day that was used up, or whose file (run/budget.json) was lost: that counts as used up.
    """
    with one_screen_errors():
        from fedtune.deployment.node import load_node_config
        from fedtune.node.budget import Ledger, make_state

        node = folder.expanduser()
        load_node_config(node)  # a folder that is no node's gets no state
        make_state(node)
        ledger = Ledger(node)
        book = ledger.read()
        ledger.refill()
    used = f"{book.orders:,} orders, {book.tokens:,} tokens, {book.seconds:,.0f} s of work"
    err.print(f"[green]a new day[/green]; of the last: {escape(book.lost or used)}")


def _lines(found: Outlook) -> Iterator[str]:
    from fedtune.report.estimate import reckoned
    from fedtune.report.text import duration, size
    from fedtune.training.base import choose_device

    recipe = found.recipe
    federation = recipe.federation
    yield (
        f"task {recipe.task}: {federation.num_rounds} rounds of {federation.work}, "
        f"one of {federation.num_clients} clients"
    )
    for use in found.uses:
        yield f"{use.key}: {use.what}, {use.amount:,} of {use.most:,}"
    if found.weights is not None:
        where, hashed = found.weights.folder, found.weights.hash
        yield f"model {recipe.model.name_or_path}: {size(found.weights.bytes)} in {where}, {hashed}"
    if found.rows is not None:
        yield f"data: {found.rows} rows of your own, which stay here"
    elif not found.refused:
        yield f"data: {recipe.data.source}, as the recipe names it"
    if found.needs is None:
        return
    device = choose_device(recipe.model.device).type
    yield f"memory: {size(found.free_bytes)} free on {device}"
    yield from reckoned(found.needs, device=device, speed=found.speed)
    seconds = federation.num_rounds * found.needs.flops / found.speed
    sent = federation.num_rounds * found.needs.upload_bytes
    yield f"all rounds: {duration(seconds)} or more of work, {size(sent)} up and as much down"
