"""Commands that do not train: `fedtune list`, `schema`, `evaluate`, `merge`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from fedtune.cli.console import AdapterPath, err, one_screen_errors, out
from fedtune.cli.lazy_torch import load_torch_when_used


class Listed(StrEnum):
    """What `fedtune list` can list."""

    AGGREGATORS = "aggregators"
    MIXINGS = "mixings"
    ATTACKS = "attacks"
    TASKS = "tasks"
    REWARDS = "rewards"
    PARTITIONS = "partitions"
    OUTER = "outer"
    RECIPES = "recipes"
    BENCHES = "benches"


def list_(
    what: Annotated[Listed | None, typer.Argument(help="Default: everything.")] = None,
    long: Annotated[bool, typer.Option(help="All facts of rules, mixings and attacks.")] = False,
) -> None:
    """List what a recipe can name, with a line on each and its paper.

    fedtune list aggregators --long
    """
    from fedtune.listing import TOLD_AT_LENGTH, facts_of, rows_of
    from fedtune.report.rule_facts import facts_table

    load_torch_when_used()
    with one_screen_errors():
        for kind in [what] if what else list(Listed):
            if long and (what or kind.value in TOLD_AT_LENGTH):
                for name, facts in facts_of(kind.value):
                    out.print(facts_table(name, facts))
                continue
            table = Table(title=kind.value, title_justify="left")
            for column in ("name", "what it is", "source"):
                table.add_column(column, overflow="fold")
            for row in rows_of(kind.value):
                table.add_row(*(escape(cell) for cell in row))
            out.print(table)


def schema() -> None:
    """Print the JSON schema of recipes, by which an editor completes and checks them.

    fedtune schema > recipe.schema.json
    """
    import json

    from fedtune.recipe.json_schema import json_schema

    load_torch_when_used()
    out.print(json.dumps(json_schema(), indent=1), markup=False, highlight=False, soft_wrap=True)


def evaluate(
    path: AdapterPath,
    recipe: Annotated[
        str | None, typer.Option(help="Recipe to measure by; default: the run's own.")
    ] = None,
) -> None:
    """Measure an adapter on held-out rows: the run's own figures again, to the digit."""
    with one_screen_errors():
        from fedtune import api
        from fedtune.report.measured import print_measured

        with err.status("measuring"):
            measured = api.evaluate(path, recipe)
        print_measured(
            out,
            measured.base.as_dict(),
            measured.adapter.as_dict(),
            {client: figures.as_dict() for client, figures in measured.clients.items()},
        )
        for reason in measured.unmeasured.values():
            err.print(f"[yellow]note[/yellow] not measured: {escape(reason)}")


def merge(
    path: AdapterPath,
    target: Annotated[Path, typer.Argument(metavar="OUT", help="A folder to create.")],
) -> None:
    """Write base + adapter as a plain Hugging Face model folder."""
    with one_screen_errors():
        from fedtune import api

        with err.status("merging"):
            api.merge(path, target)
        out.print(f"merged model: {escape(str(target))}")
