"""Stages as a recipe writes them: each laid over what all share, and what each starts from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fedtune.recipe.errors import RecipeError, nearest
from fedtune.recipe.schema import Recipe

Start = Literal["adapter", "merge", "fresh"]
STARTS: tuple[Start, ...] = get_args(Start)
CLASSIFIERS = frozenset({"reward"})  # tasks whose model is no causal LM
POLICIES = frozenset({"dpo", "grpo"})  # tasks that are held against a reference
WHOLE = frozenset({"train", "aggregator", "outer", "attack", "rewards", "defence"})
_OWN = ("name", "start", "from")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_TAKEN = {"base", "initial_adapter", "adapter"}  # they say something else where a stage may stand
_OF_SOME = {
    "rewards": "rewards: no stage takes them, they are of grpo alone; leave them out",
    "reference": "reference: no stage takes it, it is of dpo and grpo alone; leave it out",
    "initial_adapter": "initial_adapter: no stage takes it, each starts from another; leave it out",
}


@dataclass(frozen=True)
class Draft:
    """A stage laid over what all share, not bound to a folder and not validated yet.

    Attributes:
        name: Of the stage.
        start: One of `STARTS`.
        origin: The stage that it starts from; None: ``fresh``.
        own: What the stage says itself.
        laid: All that its recipe says; no key of a stage's own, no ``output_dir``.
    """

    name: str
    start: Start
    origin: Draft | None
    own: Mapping[str, Any]
    laid: Mapping[str, Any]

    @property
    def task(self) -> str:
        """The task, as far as it is one."""
        return str(self.laid.get("task", "sft"))

    @property
    def is_classifier(self) -> bool:
        """Whether its model scores a text, and writes none."""
        return self.task in CLASSIFIERS


def draft_stages(raw: Mapping[str, Any]) -> list[Draft]:
    """Lay each stage over what all share.

    Mappings merge one level deep, as overrides do; sections of which one key makes no sense
    without the others, those in `WHOLE`, are taken whole from the stage, or else from the top.

    Args:
        raw: A recipe with ``stages``, as YAML has it.

    Raises:
        RecipeError: With a line for each thing that is wrong, the stage named.
    """
    top = {key: value for key, value in raw.items() if key not in {"stages", "output_dir"}}
    drafts: list[Draft] = []
    for number, own in enumerate(_entries(raw["stages"]), start=1):
        name = _name(own, number, drafts)
        try:
            drafts.append(_draft(name, own, top, drafts))
        except RecipeError as error:
            raise RecipeError(f"stages.{name}: {problem}" for problem in error.problems) from None
    used = {key for draft in drafts for key in draft.laid}
    if unused := [_OF_SOME[key] for key in _OF_SOME if key in top and key not in used]:
        raise RecipeError(unused)
    return drafts


def _entries(stages: object) -> list[Mapping[str, Any]]:
    if not isinstance(stages, list) or not stages:
        raise RecipeError([f"stages: needs a list of stages, each with a name; got {stages!r}"])
    for number, own in enumerate(stages, start=1):
        if not isinstance(own, Mapping):
            raise RecipeError([f"stages: number {number} needs to be a mapping; got {own!r}"])
    return list(stages)


def _name(own: Mapping[str, Any], number: int, before: Sequence[Draft]) -> str:
    name = own.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _TAKEN:
        raise RecipeError(
            [
                f"stages: number {number} needs a name of small letters, digits, - and _, which "
                f"its folder will bear, and none of {', '.join(sorted(_TAKEN))}; got {name!r}"
            ]
        )
    if any(draft.name == name for draft in before):
        raise RecipeError([f"stages: the name {name!r} is given twice; name each once"])
    return name


def _draft(
    name: str, own: Mapping[str, Any], top: Mapping[str, Any], before: Sequence[Draft]
) -> Draft:
    if "output_dir" in own:
        raise RecipeError([f"output_dir: it is of all stages: this one's is OUTPUT_DIR/{name}"])
    known = [*_OWN, *(key for key in Recipe.model_fields if key != "output_dir")]
    if unknown := [key for key in own if key not in known]:
        raise RecipeError(f"{key}: unknown key; {nearest(str(key), known)}" for key in unknown)
    task = str(own.get("task", top.get("task", "sft")))
    start, origin = _origin(own, task, before)
    takes = {
        "rewards": task == "grpo",
        "reference": task in POLICIES,
        "initial_adapter": start == "fresh",
    }
    laid = {key: value for key, value in top.items() if takes.get(key, True)}
    for key, value in own.items():
        if key in _OWN:
            continue
        under = laid.get(key)
        if key not in WHOLE and isinstance(under, Mapping) and isinstance(value, Mapping):
            laid[key] = {**under, **value}
        else:
            laid[key] = value
    return Draft(name, start, origin, own, laid)


def _origin(
    own: Mapping[str, Any], task: str, before: Sequence[Draft]
) -> tuple[Start, Draft | None]:
    """What a stage starts from: by its own word, or from the last stage whose model is of use."""
    said, chosen = own.get("start"), own.get("from")
    start: Start = next((each for each in STARTS if each == said), "adapter")
    if said not in (None, start):
        raise RecipeError(
            [f"start: needs another word than {said!r}; {nearest(str(said), STARTS)}"]
        )
    if start == "fresh":
        if chosen is not None:
            raise RecipeError([f"from: start: fresh has no use for a stage: got {chosen!r}"])
        return "fresh", None
    scores, merges = task in CLASSIFIERS, start == "merge"
    fits = [draft for draft in before if not draft.is_classifier or (scores and not merges)]
    if chosen is None:
        if not fits and said is not None:
            raise RecipeError([f"start: {start} needs an earlier stage to start from; write fresh"])
        return (start, fits[-1]) if fits else ("fresh", None)
    found = next((draft for draft in before if draft.name == chosen), None)
    if found is None:
        raise RecipeError([f"from: no earlier stage {chosen!r}; {_among(chosen, before)}"])
    if found not in fits:
        what = "is merged into no base" if merges else "is no causal LM to start a policy from"
        raise RecipeError([f"from: {chosen} is a reward model, which {what}; name another stage"])
    return start, found


def _among(word: object, before: Sequence[Draft]) -> str:
    return nearest(str(word), [draft.name for draft in before]) if before else "this is the first"
