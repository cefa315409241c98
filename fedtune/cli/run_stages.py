"""`fedtune run` of a recipe in stages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from fedtune.cli.check import tell_risks
from fedtune.cli.console import err, out, short, tell_stopped
from fedtune.stopping import status_when_stopped

if TYPE_CHECKING:
    from fedtune.recipe.stages import Pipeline, Stage
    from fedtune.records.events import Observer
    from fedtune.runs.pipeline import PipelineFolder, Watch


def start_stages(pipeline: Pipeline) -> None:
    """Run all stages in a new folder."""
    with err.status("checking the stages"):
        tell_risks(pipeline)
        from fedtune.runs.pipeline import PipelineFolder

        wanted = pipeline.output_dir.expanduser().absolute()
        folder, pipeline = PipelineFolder.create(pipeline)
    if folder.path != wanted:
        err.print(f"{escape(str(wanted))} already holds a run, and stays as it is")
    _run(pipeline, folder)


def resume_stages(path: Path) -> None:
    """Go on inside the stage that was interrupted, or with the next."""
    from fedtune.runs.pipeline import PipelineFolder

    folder, pipeline = PipelineFolder.open(path)
    _run(pipeline, folder)


def _run(pipeline: Pipeline, folder: PipelineFolder) -> None:
    with err.status("loading torch, transformers, trl"):
        from fedtune import api
        from fedtune.records.events import RunStoppedError
        from fedtune.records.folder import RunFolder
        from fedtune.report.finished import print_stages

    again = f"[bold]fedtune run --resume {escape(short(folder.path))}[/bold]"
    try:
        api.go_on_stages(pipeline, folder, _watch(pipeline))
    except KeyboardInterrupt:
        err.print(f"\nstopped; nothing finished is lost. Go on with: {again}")
        raise typer.Exit(status_when_stopped()) from None
    except (RunStoppedError, OSError, ValueError, MemoryError) as error:
        tell_stopped("the stages", error, again)
        raise typer.Exit(1) from None
    print_stages(out, pipeline, [RunFolder(each.recipe.output_dir) for each in pipeline.stages])


def _watch(pipeline: Pipeline) -> Watch:
    from fedtune.records.folder import RunFolder
    from fedtune.report.finished import draw_run
    from fedtune.report.live import LiveView

    @contextmanager
    def watch(stage: Stage) -> Iterator[Observer]:
        place = pipeline.stages.index(stage) + 1
        line = f"stage {place} of {len(pipeline.stages)}, {stage.name}: {stage.recipe.task}"
        err.print(f"[bold]{escape(line)}[/bold]", highlight=False)
        with LiveView(err, stage.recipe) as view:
            yield view
        draw_run(stage.recipe, RunFolder(stage.recipe.output_dir))

    return watch
