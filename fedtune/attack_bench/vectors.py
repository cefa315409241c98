"""A cell of level vectors: the server's road on given honest updates, judged step by step."""

from __future__ import annotations

import math

import torch

from fedtune.attack_bench.measured import standing
from fedtune.attack_bench.rounds import Rows
from fedtune.recipe import Recipe
from fedtune.records.bench_result import Outcome
from fedtune.simulation.adversary import byzantine_clients
from fedtune.simulation.precomputed import replay, step_error


def replay_cell(recipe: Recipe, given: Rows) -> Outcome:
    """Take given rounds through the server, and compare each step with the oracle's.

    The oracle's step is the mean of the honest clients' rows alone. A round's loss is its squared
    error in product space over the oracle's squared length (``step_error``), the cell's the mean
    over the rounds: a server that stands still has 1.0, which is the base's, and the oracle 0.0,
    so that a retained gain is 1 - loss.

    Args:
        recipe: The cell's.
        given: The honest updates of every client, the attackers included.

    Returns:
        The same keys as a cell of level training, without what only a model has.

    Raises:
        RunStoppedError: If a round cannot be completed.
    """
    layout, rounds = given
    attackers = byzantine_clients(recipe)
    honest = [k for k in range(recipe.federation.num_clients) if k not in attackers]
    curve: list[tuple[int, float | None]] = []
    records = []
    for round_, replayed in enumerate(replay(recipe, layout, rounds), 1):
        rows = rounds[round_ - 1].rows[honest]
        ideal = rows.mean(dim=0, dtype=torch.float64).to(torch.float32)
        error = step_error(recipe, layout, replayed, ideal)
        curve.append((round_, error if math.isfinite(error) else None))
        records.append(replayed.record)
    errors = [error for _, error in curve if error is not None]
    return Outcome(
        base=1.0,
        loss=sum(errors) / len(errors) if len(errors) == len(curve) else None,
        curve=curve,
        clients=standing(records, attackers),
    )
