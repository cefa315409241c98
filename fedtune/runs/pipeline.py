"""Stages run one after another in one folder; what was interrupted goes on to the same bits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from fedtune.durable import read_whole, refuse_links, write_whole
from fedtune.recipe.binding import MERGED
from fedtune.recipe.hashing import hash_recipe
from fedtune.recipe.source import with_absolute_paths
from fedtune.recipe.stages import (
    Pipeline,
    Stage,
    load_stages,
    moved,
    stages_to_yaml,
    with_recipes,
)
from fedtune.records.events import Observer, RunStoppedError, ignore
from fedtune.records.failures import Failures, give_up
from fedtune.records.folder import STAGES, RunFolder, claim, holds_stages
from fedtune.runs.engines import execute
from fedtune.training.merge import merge_adapter
from fedtune.training.process import drop_workers

Watch = Callable[[Stage], AbstractContextManager[Observer]]


class PipelineFolder:
    """What all stages share on disk: the whole recipe, and which stages are done.

    A stage is done once its own folder, ``path/STAGE``, holds all that a finished run leaves. There
    is no ``path/adapter``: the last stage's folder holds the adapter that one is after.
    """

    def __init__(self, path: Path, *, is_new: bool = False) -> None:
        self.path, self.is_new = path, is_new
        self.recipe = path / "recipe.yaml"
        self.state = path / STAGES

    @classmethod
    def create(cls, pipeline: Pipeline) -> tuple[PipelineFolder, Pipeline]:
        """Make a folder for the stages and write their recipe.

        A folder that already holds a run is left alone: the next free number is appended.

        Returns:
            The folder, and the stages bound to it, all paths absolute.
        """
        folder = cls(claim(pipeline.output_dir.expanduser().absolute()), is_new=True)
        pipeline = with_recipes(moved(pipeline, folder.path), with_absolute_paths)
        folder._write([], pipeline)
        write_whole(folder.recipe, stages_to_yaml(pipeline))
        return folder, pipeline

    @classmethod
    def open(cls, path: Path) -> tuple[PipelineFolder, Pipeline]:
        """Open a folder that stages have left, wherever it lies now.

        Raises:
            FileNotFoundError: If no stages began there.
        """
        folder = cls(path.expanduser().absolute())
        if not holds_stages(folder.path):
            raise FileNotFoundError(f"{path} holds no stages: it needs recipe.yaml and {STAGES}")
        return folder, moved(load_stages(folder.recipe), folder.path)

    def done(self) -> list[str]:
        """The names of the stages that are done.

        Raises:
            ValueError: If the file that tells is damaged.
        """
        try:
            told = json.loads(read_whole(self.state))
            return [str(name) for name, state in told["stages"].items() if state == "done"]
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(
                f'{self.state} is damaged ({error}): write {{"stages": {{}}}} into it; stages '
                f"that are done are then found to be so"
            ) from error

    def mark_done(self, name: str, pipeline: Pipeline) -> None:
        """Note that a stage is done, on disk before this returns."""
        self._write([*self.done(), name], pipeline)

    def _write(self, done: list[str], pipeline: Pipeline) -> None:
        names = [stage.name for stage in pipeline.stages]
        told = {"stages": {name: "done" if name in done else "to do" for name in names}}
        write_whole(self.state, json.dumps(told, indent=2) + "\n")


def execute_stages(
    pipeline: Pipeline, folder: PipelineFolder, watch: Watch = lambda _: nullcontext(ignore)
) -> None:
    """Run all stages that are left, the first of them from its newest checkpoint if it has one.

    Args:
        pipeline: Bound to the folder.
        folder: Theirs.
        watch: Entered for each stage that is run; gives its observer. When it is left in peace, the
            stage has ended; it is done once that returns.

    Raises:
        RunStoppedError: If a stage could not go on; it is named.
        KeyboardInterrupt: If it was interrupted. In both cases all of it can be resumed.
        ValueError: If another process runs in the folder, or a stage that is done has changed.
    """
    refuse_links(folder.path)
    with RunFolder(folder.path).locked(), _given_up(pipeline, folder):
        done = folder.done()
        for stage in pipeline.stages:
            if stage.name in done:
                _refuse_changed(stage)
        for stage in pipeline.stages:
            if stage.name not in done:
                _run(stage, pipeline, watch)
                folder.mark_done(stage.name, pipeline)


@contextmanager
def _given_up(pipeline: Pipeline, folder: PipelineFolder) -> Iterator[None]:
    """Take a new folder of stages away again if its first one left nothing."""
    try:
        yield
    except Exception as error:
        first = pipeline.stages[0].recipe.output_dir
        give_up(RunFolder(folder.path, is_new=folder.is_new and not first.exists()), error)
        raise


def _run(stage: Stage, pipeline: Pipeline, watch: Watch) -> None:
    failures, doing = Failures(pipeline.output_dir), f"stage {stage.name}, merging its model"
    failures.forget()
    if stage.start == "merge" and stage.origin is not None:
        with failures.stopping(lambda: doing):
            _merge(pipeline.stage(stage.origin))
    run_folder = RunFolder.enter(stage.recipe)
    try:
        with watch(stage) as observer:
            execute(stage.recipe, run_folder, observer)
    except RunStoppedError as error:
        told = f"stage {stage.name}: {error}"
        gone = not run_folder.path.exists()  # the stage begins anew
        stopped = RunStoppedError(told, resumable=error.resumable or gone)
        if error.traceback is not None:
            error.traceback.replace(failures.path)
        raise stopped from error


def _merge(stage: Stage) -> None:
    """Write a stage's model with its adapter in it, unless that was done before."""
    left = RunFolder(stage.recipe.output_dir)
    if not (left.path / MERGED).is_dir():
        drop_workers()
        merge_adapter(left.adapter, stage.recipe.model, left.path / MERGED)


def _refuse_changed(stage: Stage) -> None:
    """A stage that is done is not run again, so its recipe may not say other things now."""
    began_with = RunFolder(stage.recipe.output_dir).read_manifest().recipe_hash
    if began_with not in (None, hash_recipe(stage.recipe)):
        raise ValueError(
            f"stages.{stage.name}: the recipe is no longer the one that this stage was run with; "
            f"bring it back, or start a new run"
        )
