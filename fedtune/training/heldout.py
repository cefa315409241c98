"""The held-out figures of an adapter: the same rows, the same sums as in the run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fedtune.recipe import Recipe
from fedtune.training.process import get_worker
from fedtune.training.tasks import Figures


@dataclass(frozen=True)
class Measured:
    """Figures of the base, of the adapter, and of the adapter on each client's held-out rows.

    Attributes:
        base: Of the global split.
        adapter: The same, with the adapter.
        clients: By client; one without a row that could be measured is not among them.
        unmeasured: Why not, by client.
    """

    base: Figures
    adapter: Figures
    clients: dict[int, Figures]
    unmeasured: dict[int, str] = field(default_factory=dict)


def measure_adapter(folder: Path, recipe: Recipe) -> Measured:
    """Measure a PEFT folder as the recipe's run measured its last round.

    Raises:
        ValueError: If the adapter's tensors are not those that the recipe's model would have.
    """
    worker = get_worker(recipe.model_dump_json())
    row = worker.load_adapter(folder)
    per_client = recipe.evaluation.per_client
    clients = range(recipe.federation.num_clients) if per_client else range(0)
    measured: dict[int, Figures] = {}
    unmeasured: dict[int, str] = {}
    for client in clients:
        try:
            worker.data.held_out_counts(client)
        except ValueError as error:  # the run went on without, too
            unmeasured[client] = str(error)
        else:
            measured[client] = worker.evaluator.measure(row, client=client)
    return Measured(
        base=worker.evaluator.measure(worker.initial),
        adapter=worker.evaluator.measure(row),
        clients=measured,
        unmeasured=unmeasured,
    )
