"""The held-out figures of an adapter: the same rows, the same sums as in the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedtune.recipe import Recipe
from fedtune.training.process import get_worker
from fedtune.training.tasks import Figures


@dataclass(frozen=True)
class Measured:
    """Figures of the base, of the adapter, and of the adapter on each client's held-out rows."""

    base: Figures
    adapter: Figures
    clients: list[Figures]


def measure_adapter(folder: Path, recipe: Recipe) -> Measured:
    """Measure a PEFT folder as the recipe's run measured its last round.

    Raises:
        ValueError: If the adapter's tensors are not those that the recipe's model would have.
    """
    worker = get_worker(recipe.model_dump_json())
    row = worker.load_adapter(folder)
    per_client = recipe.evaluation.per_client
    clients = range(recipe.federation.num_clients) if per_client else range(0)
    return Measured(
        base=worker.evaluator.measure(worker.initial),
        adapter=worker.evaluator.measure(row),
        clients=[worker.evaluator.measure(row, client=client) for client in clients],
    )
