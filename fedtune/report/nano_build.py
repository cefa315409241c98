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
    import torch

    from fedtune.nano.build import STEPS, build

    torch.set_num_threads(1)  # equal bits want an equal number of threads
    steps = steps or STEPS
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

        figures = build(out, steps=steps, progress=show)
    for part in ("held_out", "python_docs"):
        fit = figures[part]
        console.print(
            f"{part}: {fit['bits_per_byte']:.3f} bits per byte, "
            f"{fit['nats_per_token']:.3f} nats per token"
        )
    console.print(f"model: {out}", markup=False, soft_wrap=True)
