"""How the attackers of a simulation vote on a step, whatever they have sent for it."""

from __future__ import annotations

from fedtune.recipe import Recipe
from fedtune.round.defence.candidate import MAX_CHANGE
from fedtune.simulation.adversary import byzantine_clients


def said_of(recipe: Recipe, client: int, change: float) -> float:
    """What a client says of its true loss change: the same, unless the simulation has it lie.

    An attacker's lie is as large as a vote may be: to the median its size is nothing.
    """
    attack = recipe.attack
    if attack is None or attack.votes == "honest" or client not in byzantine_clients(recipe):
        return change
    if attack.votes == "against":
        return MAX_CHANGE if change <= 0 else -MAX_CHANGE
    return MAX_CHANGE if attack.votes == "rise" else -MAX_CHANGE
