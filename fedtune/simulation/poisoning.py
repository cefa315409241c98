"""What a simulated attacker does to its own rows or rewards, on its own machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import torch

import attacks
from fedtune.recipe import Recipe
from fedtune.seeds import derive
from fedtune.simulation.adversary import byzantine_clients, is_on
from fedtune.training.client_round import Poison
from fedtune.training.tasks.task import Asked, Priced

UNBOUNDED = (
    "{} changes rewards within their bounds, and those of a function of TRL's signature have none; "
    "name another attack, or a function (prompt, completion, row)"
)


def poison_of(recipe: Recipe, client: int, round_: int = 1) -> Poison | None:
    """What this client does in a round, counted from 1, to what it trains on or for, if it does.

    Between the rounds of its attack, a client that then sends its own row trains honestly.
    """
    attackers = sorted(byzantine_clients(recipe))
    if recipe.attack is None or client not in attackers:
        return None
    if recipe.attack.between == "own" and not is_on(recipe, round_):
        return None
    if recipe.attack.reward_attack is not None:
        name, options = recipe.attack.reward_attack
        return Poison(_key(name, options), reprice=lambda honest: [_paid(honest, name, options)])
    if recipe.attack.training_attack is not None:
        name, options = recipe.attack.training_attack
        return Poison(
            _key(name, options), mislead=lambda loss: attacks.mislead(loss, name, **options)
        )
    if recipe.attack.data_attack is None:
        return None
    name, options = recipe.attack.data_attack
    attacker = (attackers.index(client), len(attackers))
    draw = torch.Generator().manual_seed(derive(recipe.federation.seed, "poison", client))

    def spoil(rows: list[dict[str, object]]) -> list[dict[str, object]]:
        return attacks.poison(rows, name, generator=draw, attacker=attacker, **options)

    return Poison(_key(name, options, attacker), spoil)


def _paid(honest: Sequence[Priced], name: str, options: Mapping[str, object]) -> Priced:
    """The one reward that an attacker trains for, in the place of the weighted sum of the honest.

    Raises:
        ValueError: If an honest one has no bounds to change it in.
    """
    if any(each.in_lists is not None for each in honest):
        raise ValueError(UNBOUNDED.format(name))
    low = sum(min(0.0, each.weight) for each in honest)
    high = sum(max(0.0, each.weight) for each in honest)

    def pay(asked: Sequence[Asked]) -> list[float]:
        scores = [each.score_all(asked) for each in honest]
        weights = [each.weight for each in honest]
        worth = [
            sum(weight * score for weight, score in zip(weights, column, strict=True))
            for column in zip(*scores, strict=True)
        ]
        said = [completion for _, completion, _ in asked]
        return attacks.reprice(worth, said, name, low=low, high=high, **options)

    return Priced(name, 1.0, lambda *each: pay([each])[0], pay)


def _key(*facts: object) -> str:
    return json.dumps(facts, sort_keys=True)
