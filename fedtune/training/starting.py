"""What a run starts from: the first anchor, the reference of a policy, the rewards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from peft import PeftModel
from torch import Tensor

from fedtune.adapters import lora
from fedtune.recipe import Recipe
from fedtune.training.rewards import scorer
from fedtune.training.tasks.task import Priced

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
    seen: Counter[str] = Counter()
    for section in recipe.rewards:
        seen[section.name] += 1
        again = seen[section.name]
        name = section.name if again == 1 else f"{section.name}_{again}"
        priced.append(Priced(name, section.weight, scorer(section)))
    return priced


def adapter_folder(path: str, key: str) -> Path:
    """The PEFT folder behind a path: the folder itself, or the one in a run's folder.

    Args:
        path: As a recipe has it.
        key: Of the recipe, for the message.

    Raises:
        FileNotFoundError: If there is none.
    """
    folder = Path(path).expanduser()
    folder = folder if (folder / "adapter_config.json").is_file() else folder / "adapter"
    if not (folder / "adapter_model.safetensors").is_file():
        raise FileNotFoundError(f"{key}: no adapter at {path}; name a run's folder, or a PEFT one")
    return folder


def _onto(fresh: Tensors, model: PeftModel, path: str, key: str) -> dict[str, Tensor]:
    """A PEFT folder's tensors; what a fresh head has and the folder has not stays fresh."""
    stored = lora.load(model, adapter_folder(path, key))
    lacking = {name for name in fresh if name not in stored}
    foreign = sorted(set(stored) - set(fresh))
    wrong = [name for name in stored if name in fresh and stored[name].shape != fresh[name].shape]
    if foreign or wrong or any("lora_" in name for name in lacking):
        odd = (foreign or wrong or sorted(lacking))[0]
        raise ValueError(
            f"{key}: {path} holds another adapter than this recipe's lora section describes: "
            f"{odd} differs; take the section of the run that made it"
        )
    return {name: stored.get(name, fresh[name]) for name in fresh}
