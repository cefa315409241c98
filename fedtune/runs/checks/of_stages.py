"""What can be known of all stages before the first of them runs."""

from __future__ import annotations

from fedtune.recipe import Model, Recipe
from fedtune.recipe.stages import Pipeline, Stage, tell
from fedtune.runs.checks.preflight import find_problems
from fedtune.runs.checks.risks import find_risks


def find_stage_problems(pipeline: Pipeline, *, quick: bool = False) -> list[str]:
    """What would stop a stage, a line each; empty if nothing is known to.

    Adapters and merged models that an earlier stage will leave are not missed: a merged model is
    judged by the base that it will be made of, whose architecture and tokenizer it has.

    Args:
        pipeline: All stages.
        quick: As in `find_problems`.
    """
    promised = [str(stage.recipe.output_dir) for stage in pipeline.stages]
    return tell(
        {
            stage.name: find_problems(
                _on_what_is_there(stage, pipeline), promised=promised, quick=quick
            )
            for stage in pipeline.stages
        }
    )


def find_stage_risks(pipeline: Pipeline) -> list[str]:
    """Notes on stages that are in order, a line each."""
    return tell({stage.name: find_risks(stage.recipe) for stage in pipeline.stages})


def _on_what_is_there(stage: Stage, pipeline: Pipeline) -> Recipe:
    """The stage's recipe, with the base that is there before any stage has run."""
    base = _base(stage, pipeline)
    names = {"name_or_path": base.name_or_path, "revision": base.revision}
    model = stage.recipe.model.model_copy(update=names)
    return stage.recipe.model_copy(update={"model": model})


def _base(stage: Stage, pipeline: Pipeline) -> Model:
    if stage.origin is None:
        return stage.recipe.model
    return _base(pipeline.stage(stage.origin), pipeline)
