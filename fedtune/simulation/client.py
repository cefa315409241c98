"""The client of a simulation: honest, but for the attackers that the recipe names."""

from __future__ import annotations

from fedtune.node.client import make_client
from fedtune.recipe import Recipe
from fedtune.simulation.adversary import trains_for_nothing
from fedtune.simulation.poisoning import poison_of
from fedtune.simulation.voters import said_of
from fedtune.training.client_round import Poison


class Simulated:
    """How the clients of a recipe behave, attackers included."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe

    def skips_training(self, client: int, round_: int) -> bool:
        """Whether the attack does not look at what this attacker learns."""
        return trains_for_nothing(self._recipe, client, round_)

    def poison(self, client: int, round_: int) -> Poison | None:
        """What the attack does to this client's rows or rewards, if it does."""
        return poison_of(self._recipe, client, round_)

    def vote(self, client: int, change: float) -> float:
        """The true change, or what the attack says in its place."""
        return said_of(self._recipe, client, change)


app = make_client(Simulated)
