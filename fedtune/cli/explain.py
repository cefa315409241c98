"""`fedtune explain`: what a key of a recipe is for, its unit, default, bounds and an example."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from fedtune.cli.console import one_screen_errors, out
from fedtune.cli.lazy_torch import load_torch_when_used

if TYPE_CHECKING:
    from fedtune.recipe.reference import Key


def explain(
    key: Annotated[
        str | None, typer.Argument(metavar="[SECTION[.KEY]]", help="Default: the sections.")
    ] = None,
) -> None:
    """Say what a key of a recipe is for: its unit, default, bounds and an example.

    fedtune explain evaluation.max_rows
    """
    load_torch_when_used()
    from fedtune.recipe.reference import keys, look_up

    with one_screen_errors():
        if key is None:
            _tell_each(each for name, each in keys().items() if "." not in name)
        elif key.startswith("train."):
            _tell_trl(key.removeprefix("train."))
        else:
            found, *inner = look_up(key)
            _tell(found)
            _tell_each(inner)


def _tell(key: Key) -> None:
    from fedtune.recipe.key_page import facts_of_key

    out.print(f"[bold]{key.name}[/bold]  {escape(key.meaning)}", highlight=False)
    for label, words in facts_of_key(key).items():
        out.print(f"  {label:8} {escape(words)}", highlight=False, soft_wrap=True)


def _tell_each(inner: Iterable[Key]) -> None:
    """A line on each."""
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for key in inner:
        default = f" ({key.default})" if key.default else ""
        table.add_row(f"{key.name}{default}", escape(key.meaning))
    if table.row_count:
        out.print(table)


def _tell_trl(name: str) -> None:
    """What TRL itself says of one of its keys, task by task where they differ."""
    from fedtune.recipe.errors import RecipeError, guess
    from fedtune.recipe.trl_keys import CONFIGS, trl_keys

    of = {task: each for task in CONFIGS if (each := trl_keys(task).get(name)) is not None}
    if not of:
        known = {key for task in CONFIGS for key in trl_keys(task)}
        hint = guess(name, known) or "see the configs of TRL's trainers"
        raise RecipeError([f"train.{name}: unknown to TRL; {hint}"])
    for key in dict.fromkeys(of.values()):
        tasks = ", ".join(task for task, each in of.items() if each == key)
        out.print(f"[bold]train.{name}[/bold]  {escape(key.help)}", highlight=False)
        out.print(f"  value    {escape(key.type)}", highlight=False, soft_wrap=True)
        out.print(f"  default  {escape(key.default) or 'see TRL'}", highlight=False)
        out.print(f"  task     {tasks}", highlight=False)
