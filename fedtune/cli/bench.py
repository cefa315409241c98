"""`fedtune bench`: a matrix of attacks and defences on one base recipe."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from fedtune.cli.console import err, one_screen_errors, out, short

if TYPE_CHECKING:
    from fedtune.attack_bench.cells import Cell
    from fedtune.attack_bench.run import Matrix
    from fedtune.attack_bench.schema import Bench
    from fedtune.records.bench_result import Line


TIME = re.compile(r"(?=\d)(?:(?P<h>\d{1,4})h)?(?:(?P<m>\d{1,6})m)?(?:(?P<s>\d{1,8})s)?", re.ASCII)


def bench(
    name: Annotated[
        str, typer.Argument(metavar="BENCH", help="A YAML file, or the name of a shipped bench.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value]...", help="Laid over the bench.")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Processes; default: as many as fit on the cores free to use."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", metavar="OUT", help="Default: runs/bench/NAME.")
    ] = None,
    slice_: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="TIME",
            help="Begin no cell after so long: 60m, 1h30m, 90s. The same command goes on.",
        ),
    ] = None,
) -> None:
    """Run attacks x defences x fractions of attackers x seeds; what is done already is read.

    fedtune bench bench_smoke

    fedtune bench bench_smoke 'seeds=[0, 1]' --jobs 2
    """
    words = [name, *(overrides or [])]
    target = folder or Path("runs/bench") / Path(name).stem
    given = ["--out", str(folder)] if folder else []
    again = shlex.join(["fedtune", "bench", *words, *given])
    with one_screen_errors():
        for_s = math.inf if slice_ is None else _seconds(slice_)
        matrix = _prepare(name, overrides or [], target)
        lines = _run(matrix, jobs or _fitting(matrix.bench, matrix.cells), again, for_s)
        _show(matrix, lines, again)
    if matrix.left and for_s < math.inf:
        more = f"{again} --for {slice_}"
        err.print(f"the time is up: {matrix.left} cells have not run. Go on with:", end=" ")
        err.print(escape(more), style="bold", soft_wrap=True)
    if crashed := sum(line.status == "crashed" for line in lines):
        err.print(f"[red]{crashed} cells crashed[/red]; see {escape(short(matrix.store.log))}")
        err.print(f"What is done is kept. Try the rest again with: {escape(again)}")
        raise typer.Exit(1)


def _prepare(name: str, overrides: Sequence[str], target: Path) -> Matrix:
    """The bench laid out and vetted, and what is to be run said."""
    with err.status("reading the bench"):
        from fedtune.api import lay_out_bench

        matrix = lay_out_bench(name, overrides, target)
    told = matrix.bench
    err.print(
        f"{escape(told.title)}: {len(told.attacks)} attacks x {len(told.defences)} defences "
        f"x {len(told.fractions)} fractions x {len(told.seeds)} seeds on {told.base}, level "
        f"{told.level}; with references {len(matrix.cells)} cells",
        highlight=False,
    )
    return matrix


def _fitting(loaded: Bench, cells: Sequence[Cell]) -> int:
    """How many processes the cores hold that this one may use, at the threads of a client."""
    from fedtune.origin import usable_cores

    threads = 1
    if loaded.level == "training":
        recipes = (cell.recipe for cell in cells if cell.recipe is not None)
        threads = max((recipe.federation.threads_per_client for recipe in recipes), default=1)
    return max(1, usable_cores() // threads)


def _seconds(text: str) -> float:
    """A time as it is typed, such as 1h30m, in seconds."""
    found = TIME.fullmatch(text)
    parts = found.groupdict(default="0") if found else {}
    seconds = 3600 * int(parts.get("h", 0)) + 60 * int(parts.get("m", 0)) + int(parts.get("s", 0))
    if not seconds:
        raise ValueError(f"--for needs a time such as 60m, 1h30m or 90s: got {text!r}")
    return float(seconds)


def _run(matrix: Matrix, jobs: int, again: str, for_s: float) -> list[Line]:
    from fedtune.api import write_bench
    from fedtune.report.bench_progress import BenchView

    try:
        with BenchView(err) as view:
            return matrix.run(jobs=jobs, watcher=view, for_s=for_s)
    except KeyboardInterrupt:
        if matrix.keys:  # else it was recording, and what the folder shows is not this run's
            write_bench(matrix, list(matrix.lines()), command=again)
        err.print("\nstopped; no finished cell is lost. Go on with:", end=" ")
        err.print(escape(again), style="bold", soft_wrap=True)
        raise typer.Exit(130) from None
    except RuntimeError as error:
        err.print(f"[red]the bench stopped:[/red] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from None


def _show(matrix: Matrix, lines: Sequence[Line], again: str) -> None:
    from fedtune.api import write_bench
    from fedtune.report.bench_table import print_bench

    print_bench(out, write_bench(matrix, lines, command=again))
    for name, path in (("results", matrix.store.results), ("page", matrix.store.page)):
        out.print(f"{name:8} {escape(short(path))}", highlight=False, soft_wrap=True)
