"""The progress of `fedtune nano build`."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def build_with_progress(console: Console, out: Path, steps: int | None) -> None:
    """Build nano into a folder, and say what came of it.

    Raises:
        FileExistsError: If the folder already holds something.
    """
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty; name another folder")
    from fedtune.nano.build import build

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("reading the corpus", total=steps)

        def show(step: int, loss: float) -> None:
            progress.update(task, completed=step, description=f"loss {loss:.3f}")

        figures = (
            build(out, progress=show) if steps is None else build(out, steps=steps, progress=show)
        )
    for name, value in figures.items():
        if isinstance(value, int | float | str):
            console.print(f"{name}: {value}", markup=False)
