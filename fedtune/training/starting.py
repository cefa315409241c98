"""What a run starts from: the first anchor, the reference of a policy, the rewards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from fedtune.adapters import lora
from fedtune.adapters.folder import CONFIG, adapter_folder
from fedtune.recipe import Recipe
from fedtune.recipe.reward import EntryPointReward, ModelReward, names_of
from fedtune.training.reward_model import load_reward_model
from fedtune.training.rewards import in_lists, scorer
from fedtune.training.tasks.task import Priced
from fedtune.training.trl_rewards import scoring

if TYPE_CHECKING:
    from peft import PeftModel

Tensors = Mapping[str, Tensor]


def start_of(recipe: Recipe, model: PeftModel, fresh: Tensors) -> tuple[Tensors, Tensors]:
    """The adapter that a run starts from, and the one that its policy is held against.

    Args:
        recipe: The run's.
        model: Carries a fresh adapter.
        fresh: Its tensors: B is zero, so the model is the base.

    Raises:
        FileNotFoundError: If an adapter that the recipe names is not there.
        ValueError: If one is not of this recipe's shape.
    """
    start = fresh
    if recipe.initial_adapter is not None:
        start = _onto(fresh, model, recipe.initial_adapter, "initial_adapter")
    if recipe.reference == "base":
        return start, fresh
    if recipe.reference == "initial_adapter":
        return start, start
    return start, _onto(fresh, model, recipe.reference, "reference")


def price(recipe: Recipe) -> list[Priced]:
    """The rewards of a recipe, ready to be asked.

    Raises:
        ValueError: If one is not to be had here.
    """
    priced: list[Priced] = []
    for name, section in zip(names_of(recipe.rewards), recipe.rewards, strict=True):
        if isinstance(section, ModelReward):
            model = load_reward_model(recipe, section)
            whole = Priced(name, section.weight, model.score, model.score_all, model.digest)
        elif isinstance(section, EntryPointReward) and (function := in_lists(section)) is not None:
            listed = scoring(function, section.entry)
            whole = Priced(name, section.weight, _in_lists_alone, in_lists=listed)
        else:
            whole = Priced(name, section.weight, scorer(section))
        priced.append(whole)
    return priced


def _in_lists_alone(prompt: str, completion: str, row: Mapping[str, object]) -> float:
    raise ValueError("rewards: a function of TRL's signature needs lists, as TRL has them")


def _onto(fresh: Tensors, model: PeftModel, path: str, key: str) -> dict[str, Tensor]:
    """A PEFT folder's tensors; what a fresh head has and the folder has not stays fresh."""
    folder = adapter_folder(path, key)
    stored = lora.load(model, folder)
    lacking = {name for name in fresh if name not in stored}
    foreign = sorted(set(stored) - set(fresh))
    wrong = [name for name in stored if name in fresh and stored[name].shape != fresh[name].shape]
    if foreign or wrong or any("lora_" in name for name in lacking):
        raise _another(key, path, (foreign or wrong or sorted(lacking))[0])
    _check_scale(model, folder, key, path)
    return {name: stored.get(name, fresh[name]) for name in fresh}


def _check_scale(model: PeftModel, folder: Path, key: str, path: str) -> None:
    """Refuse an adapter that would be multiplied by another number here: no shape shows it."""
    stored, own = json.loads((folder / CONFIG).read_text("utf-8")), model.peft_config["default"]
    for name in ("lora_alpha", "use_rslora", "alpha_pattern"):
        theirs, ours = stored.get(name), getattr(own, name)
        if (theirs or 0) != (ours or 0):  # older folders have none of a key that is off
            raise _another(key, path, f"{name} {theirs!r}, here {ours!r},")


def _another(key: str, path: str, odd: str) -> ValueError:
    return ValueError(
        f"{key}: {path} holds another adapter than this recipe's lora section describes: "
        f"{odd} differs; take the section of the run that made it"
    )
