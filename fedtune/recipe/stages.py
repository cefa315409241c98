"""A recipe in stages: each is a whole recipe that starts from what an earlier one made."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from fedtune.recipe.beside import with_paths
from fedtune.recipe.binding import BASE, bind
from fedtune.recipe.drafts import WHOLE, Start, draft_stages
from fedtune.recipe.errors import RecipeError, nearest
from fedtune.recipe.reading import read_mapping, write_text
from fedtune.recipe.schema import Recipe
from fedtune.recipe.section import Section
from fedtune.recipe.source import lay_over, parse_recipe, read_recipe

_SHAPE = (
    "r", "lora_alpha", "target_modules", "exclude_modules", "target_parameters",
    "layers_to_transform", "layers_pattern", "modules_to_save", "bias", "use_rslora", "use_dora",
    "rank_pattern", "alpha_pattern",
)  # fmt: skip


class Stage(Section):
    """One stage.

    Attributes:
        name: Its own, and its folder's.
        start: What it starts from: its origin's adapter, its origin's model with the adapter
            merged into it, or the base.
        origin: The stage that it starts from; None: ``fresh``.
        recipe: The whole of it; paths to other stages are bound to the folder of all.
    """

    name: str
    start: Start
    origin: str | None = None
    recipe: Recipe


class Pipeline(Section):
    """Stages in their order, and the folder in which each gets a run folder of its name."""

    stages: tuple[Stage, ...] = Field(min_length=1)
    output_dir: Path

    def stage(self, name: str) -> Stage:
        """The stage of that name, which there is."""
        return next(stage for stage in self.stages if stage.name == name)


def load(name: str, overrides: Iterable[str] = ()) -> Recipe | Pipeline:
    """Read a recipe by path or name, in stages or not, with overrides laid on top.

    Args:
        name: A path, or the name of a shipped recipe.
        overrides: ``section.key=value``; in a recipe in stages that is what all share, and
            ``stages.NAME.section.key=value`` one stage's own.

    Raises:
        RecipeError: With a line for each thing that is wrong.
    """
    raw = read_recipe(name)
    for override in overrides:
        _override(raw, override)
    raw = with_paths(raw, here_first=True)
    return lay_out(raw) if "stages" in raw else parse_recipe(raw)


def load_stages(path: Path) -> Pipeline:
    """Read a recipe in stages as a run has left it.

    Raises:
        RecipeError: With a line for each thing that is wrong.
    """
    return lay_out(read_mapping(path))


def lay_out(raw: Mapping[str, Any]) -> Pipeline:
    """Make each stage a whole recipe.

    Args:
        raw: A recipe with ``stages``, as YAML has it.

    Raises:
        RecipeError: With a line for each thing that is wrong, the stage named.
    """
    if "stages" not in raw:
        raise RecipeError(["stages: needed, and not given"])
    folder = raw.get("output_dir", "runs/run")
    if not isinstance(folder, str | Path):
        raise RecipeError([f"output_dir: needs a path; got {folder!r}"])
    drafts, output_dir = draft_stages(raw), Path(folder)
    stages: dict[str, Stage] = {}
    found: dict[str, list[str]] = {}
    for draft in drafts:
        origin = draft.origin.name if draft.origin else None
        try:
            recipe = parse_recipe(bind(draft, drafts, output_dir))
            stage = Stage(name=draft.name, start=draft.start, origin=origin, recipe=recipe)
            found[draft.name] = _misfits(recipe, stages)
            stages[draft.name] = stage
        except RecipeError as error:
            found[draft.name] = error.problems
    if problems := tell(found):
        raise RecipeError(problems)
    return Pipeline(stages=tuple(stages.values()), output_dir=output_dir)


def tell(found: Mapping[str, Sequence[str]]) -> list[str]:
    """What is wrong with which stage, a line each; what all stages share is told once.

    Args:
        found: For each stage by name what is wrong with it, if anything.
    """
    lists = list(found.values())
    of_all = [each for each in lists[0] if all(each in other for other in lists[1:])]
    of_all = of_all if len(lists) > 1 else []
    return of_all + [
        f"stages.{name}: {each}" for name, told in found.items() for each in told
        if each not in of_all
    ]  # fmt: skip


def as_mapping(pipeline: Pipeline) -> dict[str, Any]:
    """What `lay_out` reads back: whole recipes, in which stages call each other by name."""
    names = {str(pipeline.output_dir / stage.name): stage.name for stage in pipeline.stages}
    return {
        "output_dir": str(pipeline.output_dir),
        "stages": [_unbind(stage, names) for stage in pipeline.stages],
    }


def stages_to_yaml(pipeline: Pipeline) -> str:
    """All of it, defaults included, as YAML that `load` reads back."""
    return write_text(as_mapping(pipeline))


def moved(pipeline: Pipeline, path: Path) -> Pipeline:
    """The same stages in another folder."""
    return lay_out({**as_mapping(pipeline), "output_dir": str(path)})


def with_recipes(pipeline: Pipeline, change: Callable[[Recipe], Recipe]) -> Pipeline:
    """The same stages with each recipe changed."""
    stages = [
        stage.model_copy(update={"recipe": change(stage.recipe)}) for stage in pipeline.stages
    ]
    return pipeline.model_copy(update={"stages": tuple(stages)})


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    first, _, rest = key.strip().partition(".")
    stages = raw.get("stages")
    if first != "stages" or not rest or not isinstance(stages, list):
        lay_over(raw, override)
        return
    named = {each["name"]: each for each in stages if isinstance(each, dict) and "name" in each}
    name, _, inner = rest.partition(".")
    if name not in named:
        raise RecipeError([f"{key}: no stage {name!r}; {nearest(name, map(str, named))}"])
    if not inner:
        raise RecipeError([f"{override}: needs the form stages.{name}.section.key=value"])
    section = inner.partition(".")[0]
    if section in WHOLE and section != inner and section in raw and section not in named[name]:
        named[name][section] = copy.deepcopy(raw[section])  # one key is changed, and no other
    lay_over(named[name], f"{inner}{equals}{value}")


def _misfits(recipe: Recipe, earlier: Mapping[str, Stage]) -> list[str]:
    """Adapters of other stages that this one's own adapter cannot take over."""
    problems = []
    by_folder = {str(each.recipe.output_dir): each for each in earlier.values()}
    for key, path in (
        ("start: adapter", recipe.initial_adapter),
        ("reference", recipe.reference),
    ):
        other = by_folder.get(str(path))
        if other is None:
            continue
        base, theirs = recipe.model.name_or_path, other.recipe.model.name_or_path
        if base != theirs:
            problems.append(
                f"{key}: needs an adapter on the same base, {base}: got {other.name}'s, on {theirs}"
            )
        problems += [
            f"lora.{part}: {key} takes {other.name}'s adapter, which has "
            f"{getattr(other.recipe.lora, part)}: got {getattr(recipe.lora, part)}; write the "
            f"same, or start: merge"
            for part in _SHAPE
            if getattr(recipe.lora, part) != getattr(other.recipe.lora, part)
        ]
    return problems


def _unbind(stage: Stage, names: Mapping[str, str]) -> dict[str, Any]:
    """A stage as YAML has it, other stages' names in the place of their folders."""
    recipe = stage.recipe.model_dump(mode="json", exclude={"output_dir"})
    if stage.origin is not None:
        for key in BASE:
            del recipe["model"][key]
    if stage.start == "adapter":
        del recipe["initial_adapter"]
    recipe["reference"] = names.get(recipe["reference"], recipe["reference"])
    for reward in recipe["rewards"]:
        if reward["name"] == "reward_model":
            reward["adapter"] = names.get(reward["adapter"], reward["adapter"])
    own = {"name": stage.name, "start": stage.start}
    return {**own, **({"from": stage.origin} if stage.origin else {}), **recipe}
