"""`fedtune init`: a first recipe for one's own data."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from fedtune.cli.console import err, one_screen_errors, out
from fedtune.recipe.errors import RecipeError, nearest

if TYPE_CHECKING:
    from fedtune.recipe.first import Answers
    from fedtune.training.first_look import FirstLook

_EVENLY = "none"
_TASKS = ("sft", "dpo", "reward", "grpo")
_NEEDS = {"sft": ("prompt", "completion"), "grpo": ("prompt",)}  # all others: chosen, rejected


def init(
    path: Annotated[Path, typer.Argument(metavar="RECIPE", help="The file to write.")] = Path(
        "recipe.yaml"
    ),
    data: Annotated[
        str | None, typer.Option(help="A file, a saved folder, a hub name, or python-docs.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="sft, dpo, reward or grpo.")] = None,
    model: Annotated[str | None, typer.Option(help="A hub name, a folder, or nano.")] = None,
    by: Annotated[
        str | None, typer.Option(help="The column that says whose row it is, or none.")
    ] = None,
    clients: Annotated[int | None, typer.Option(help="How many clients.")] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="How your columns are to be read: prompt=question,completion=answer."),
    ] = None,
) -> None:
    """Write a first recipe for data of your own: five questions, or five options.

    The data are looked at, and nothing is overwritten. Without a terminal what is not said has a
    default; the data must be named.

    fedtune init mine.yaml --data rows.jsonl --model Qwen/Qwen3-0.6B --clients 5
    """
    with one_screen_errors():
        if path.exists():
            raise RecipeError([f"{path}: is there already; name another file"])
        if not path.absolute().parent.is_dir():
            raise RecipeError([f"{path}: no folder {path.parent}; make it first"])
        asks = _at_a_terminal()
        if data is None and not asks:
            raise RecipeError(["--data: needed without a terminal; name a file, or python-docs"])
        source = data or _ask("Your data: a file, a folder, a hub name", "python-docs")
        with err.status("looking at the data"):
            from fedtune.recipe.first import Answers
            from fedtune.training.first_look import look_at

            seen = look_at(source)
        _tell(source, seen)
        task = _known("--task", task or _asked(asks, "Task", _likely_task(seen)), _TASKS)
        named = _columns(source, task, seen, columns, asks=asks)
        model = model or _asked(asks, "Model: a hub name, a folder, or nano", "nano")
        by = _whose(seen, by, asks=asks)
        most = seen.ids[by] if by else max(1, int(0.9 * seen.rows) // 2)
        clients = clients or int(_asked(asks, "How many clients", str(min(10, most))))
        if not 1 <= clients <= most:
            raise RecipeError([f"--clients: needs 1 to {most} on these data; got {clients}"])
        source, model = _from(path, source), _from(path, model)
        _write(path, Answers(source, task, model, clients, by, named, seen.rows))
    out.print(f"wrote {escape(str(path))}; next: fedtune check {escape(str(path))}")


def _at_a_terminal() -> bool:
    return sys.stdin.isatty()


def _write(path: Path, answers: Answers) -> None:
    """Write the recipe, unless it is known at once that it cannot run."""
    from fedtune import api
    from fedtune.recipe.first import first_recipe

    with path.open("x", encoding="utf-8") as file:
        file.write(first_recipe(answers, path))
    try:
        api.check(api.load_recipe(path), quick=True)
    except ValueError:
        path.unlink()
        raise


def _from(path: Path, named: str) -> str:
    """A file or folder as the recipe will name it: from its own folder."""
    there = Path(named).expanduser()
    if not there.exists() or there.is_absolute() or named.startswith("~"):
        return named
    return os.path.relpath(there, path.absolute().parent)


def _tell(source: str, seen: FirstLook) -> None:
    columns = ", ".join(seen.columns)
    err.print(f"{escape(source)}: {seen.rows} rows; columns {escape(columns)}", highlight=False)
    for task, renamed in seen.fits.items():
        how = ", ".join(f"{name} from {column}" for name, column in renamed.items())
        err.print(f"  fits {task}{escape(f': {how}' if how else '')}", highlight=False)


def _likely_task(seen: FirstLook) -> str:
    return next((task for task in ("dpo", "sft", "grpo") if task in seen.fits), "sft")


def _columns(
    source: str, task: str, seen: FirstLook, given: str | None, *, asks: bool
) -> Mapping[str, str]:
    """``data.columns``: as given, as guessed, or as asked for."""
    from fedtune.training.first_look import fits_with

    if given is None and task in seen.fits:
        return seen.fits[task]
    needs = _NEEDS.get(task, ("chosen", "rejected"))
    if given is not None:
        pairs = [each.partition("=") for each in given.split(",")]
        named = {name.strip(): column.strip() for name, _, column in pairs}
    elif asks:
        named = {name: _ask(f"Which column is the {name}", seen.columns[0]) for name in needs}
    else:
        example = ",".join(f"{name}=..." for name in needs)
        raise RecipeError(
            [f"--columns: {source} has {', '.join(seen.columns)}; write --columns {example}"]
        )
    for column in named.values():
        if "{" not in column:
            _known("--columns", column, seen.columns)
    if not fits_with(source, task, named):
        raise RecipeError([f"--columns: {task} needs {', '.join(needs)}; got {dict(named)}"])
    return named


def _whose(seen: FirstLook, by: str | None, *, asks: bool) -> str | None:
    if by is None and seen.ids and asks:
        told = ", ".join(f"{name} ({count} values)" for name, count in seen.ids.items())
        by = _ask(f"Which column says whose row it is: {told}, or {_EVENLY}", _EVENLY)
    if by in (None, _EVENLY):
        return None
    return _known("--by", str(by), seen.ids)


def _known(key: str, word: str, known: Collection[str]) -> str:
    if word not in known:
        raise RecipeError([f"{key}: no {word!r}; {nearest(word, known)}"])
    return word


def _asked(asks: bool, question: str, default: str) -> str:
    return _ask(question, default) if asks else default


def _ask(question: str, default: str) -> str:
    return str(typer.prompt(question, default=default, err=True))
