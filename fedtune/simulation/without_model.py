"""Which recipes can be run on given rows, said without Flower."""

from __future__ import annotations

from fedtune.recipe import Recipe


def objections(recipe: Recipe) -> list[str]:
    """Why given rows of all clients, at one rank and of both factors, do not fit; a line each."""
    federation, lora, found = recipe.federation, recipe.lora, []
    if recipe.outer.name != "fedavg":
        found.append(f"outer: given rows need outer.name fedavg: got {recipe.outer.name}")
    if lora.train != "both":
        found.append(f"lora.train: given rows need lora.train: both: got {lora.train}")
    if lora.client_ranks:
        found.append(
            f"lora.client_ranks: given rows need one rank for all: got {lora.client_ranks}"
        )
    if federation.sample_size < federation.num_clients:
        found.append(
            f"federation.clients_per_round: given rows need all {federation.num_clients} clients "
            f"in each round: got {federation.sample_size}; leave it out"
        )
    return found
