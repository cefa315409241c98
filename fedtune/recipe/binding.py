"""Stages that name each other, bound to the folders that these will leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedtune.recipe.drafts import POLICIES, Draft
from fedtune.recipe.errors import RecipeError
from fedtune.recipe.schema import Model

MERGED = "merged"  # in a stage's folder: base and adapter as one model, once a stage starts from it
BASE = ("name_or_path", "revision")


def bind(draft: Draft, drafts: Sequence[Draft], output_dir: Path) -> dict[str, Any]:
    """A stage's recipe, with the folders of other stages in the place of their names.

    Args:
        draft: The stage.
        drafts: All stages, in their order.
        output_dir: The folder of all.

    Returns:
        What a recipe is parsed from; nothing in it is validated but what is of stages.

    Raises:
        RecipeError: If it names a stage that comes later, or that has not what it asks for.
    """
    raw = {**draft.laid, "output_dir": str(output_dir / draft.name)}
    if draft.origin is not None:
        _refuse_other_start(draft, output_dir)
        model = raw.get("model", {})
        if isinstance(model, Mapping):  # else validation has something to say of it
            raw["model"] = {**model, **base_of(draft, output_dir)}
    if draft.start == "adapter" and draft.origin is not None:
        raw["initial_adapter"] = str(output_dir / draft.origin.name)
        # A policy is held against what it starts from, which a merged model is by being the base.
        if draft.task in POLICIES:
            raw.setdefault("reference", "initial_adapter")
    if "reference" in raw:
        raw["reference"] = _folder("reference", raw["reference"], draft, drafts, output_dir)
    if isinstance(raw.get("rewards"), list):
        raw["rewards"] = [_reward(each, draft, drafts, output_dir) for each in raw["rewards"]]
    return raw


def base_of(draft: Draft, output_dir: Path) -> dict[str, Any]:
    """The model that a stage's adapter sits on: its own, or as its origin hands it on."""
    if draft.origin is None:
        model = _section(draft.laid, "model")
        return {key: model.get(key, Model.model_fields[key].default) for key in BASE}
    if draft.start == "merge":
        return {"name_or_path": str(output_dir / draft.origin.name / MERGED), "revision": None}
    return base_of(draft.origin, output_dir)


def _refuse_other_start(draft: Draft, output_dir: Path) -> None:
    """A stage that starts from another cannot name an adapter or a base beside it."""
    assert draft.origin is not None
    hint = "leave it out, or write start: fresh"
    problems = []
    adapter = draft.own.get("initial_adapter")
    if adapter is not None:
        problems.append(
            f"initial_adapter: the stage starts from {draft.origin.name}: got {adapter!r}; {hint}"
        )
    said, base = _section(draft.own, "model"), base_of(draft, output_dir)
    problems += [
        f"model.{key}: the stage starts from {draft.origin.name}, on {base['name_or_path']}: got "
        f"{said[key]!r}; {hint}"
        for key in BASE
        if key in said and said[key] != base[key]
    ]
    if problems:
        raise RecipeError(problems)


def _reward(
    reward: Any,  # noqa: ANN401  as YAML has it
    draft: Draft,
    drafts: Sequence[Draft],
    output_dir: Path,
) -> Any:  # noqa: ANN401
    if not isinstance(reward, Mapping) or reward.get("name") != "reward_model":
        return reward
    key, named = "rewards.reward_model.adapter", reward.get("adapter")
    scorers = [each.name for each in drafts if each.is_classifier]
    if any(each.name == named for each in drafts) and named not in scorers:
        hint = f"name {' or '.join(scorers)}" if scorers else "put one before it"
        raise RecipeError([f"{key}: needs a stage of task reward: got {named}; {hint}"])
    return {**reward, "adapter": _folder(key, named, draft, drafts, output_dir)}


def _folder(
    key: str,
    named: Any,  # noqa: ANN401
    draft: Draft,
    drafts: Sequence[Draft],
    output_dir: Path,
) -> Any:  # noqa: ANN401
    """The folder of a stage that is named; what names none is a path, or validation's to name."""
    place = next((place for place, each in enumerate(drafts) if each.name == named), None)
    if place is None:
        return named
    if place >= drafts.index(draft):
        raise RecipeError([f"{key}: needs a stage that comes before this one: got {named}"])
    return str(output_dir / str(named))


def _section(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A section that may be anything as yet."""
    section = raw.get(key)
    return section if isinstance(section, Mapping) else {}
