"""What is measured of an anchor, the simulation's own knowledge of its attack included."""

from __future__ import annotations

from torch import Tensor

import attacks
from fedtune.recipe import Recipe
from fedtune.training.worker import Worker


def planted_backdoor(recipe: Recipe) -> attacks.Backdoor | None:
    """The backdoor that the simulated attackers of this run plant, if they do."""
    attack = recipe.attack
    if attack is None or attack.num_attackers == 0 or attack.data_attack is None:
        return None
    name, options = attack.data_attack
    return attacks.backdoor_of(name, **options)


def judge(recipe: Recipe, worker: Worker, anchor: Tensor) -> dict[str, float]:
    """Held-out figures of the anchor, and how often its planted backdoor opens.

    Args:
        recipe: The run's. A worker is shared by recipes of other attacks, so its own is not asked.
        worker: Holds the model and the data.
        anchor: A float32 row of the whole layout.

    Returns:
        The figures by name, as metrics.jsonl holds them. Only where attackers plant a backdoor are
        among them ``backdoor_success``, the share of prompts with the trigger in them that are
        answered with the target, and ``backdoor_untriggered``, the same of these prompts without
        it: a model that says the target to everyone has no backdoor. No rule is ever told.
    """
    figures = worker.evaluator.measure(anchor).as_dict()
    backdoor = planted_backdoor(recipe)
    if backdoor is not None:
        for name, plant in (("success", backdoor.plant), ("untriggered", dict)):
            figures[f"backdoor_{name}"] = worker.evaluator.backdoor_success(
                anchor, plant=plant, target=backdoor.target
            )
    return figures
