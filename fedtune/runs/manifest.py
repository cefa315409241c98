"""What a run writes down once, before its first round: its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from secrets import token_hex
from typing import Any

import torch

from fedtune.recipe import Recipe
from fedtune.runs.client_names import name_clients
from fedtune.simulation.adversary import byzantine_clients
from fedtune.training.worker import Worker
from fedtune.trust.binding import binding_facts


def manifest_of(recipe: Recipe, worker: Worker, inputs: Mapping[str, str]) -> dict[str, Any]:
    """What is known of a run when it begins; its hash names the run, and binds what stands here.

    Args:
        recipe: The run's.
        worker: Holds the model and the rows.
        inputs: Hashes of all that a resumed run must find as it was.

    Raises:
        ValueError: If a client has no row that can be trained on, by its name.
    """
    return {
        "run": token_hex(16),  # two runs of one recipe have two manifests
        **inputs,
        **binding_facts(recipe),
        "seed": recipe.federation.seed,
        "device": str(worker.base.device),
        "dtype": str(worker.base.dtype),
        "threads": torch.get_num_threads(),
        "layout_hash": worker.layout.hash,
        "adapter_parameters": worker.layout.size,
        **_rows(recipe, worker),
        **_held_out(worker),
        "server_rows": len(worker.data.server_rows),
        "simulated_attackers": sorted(byzantine_clients(recipe)),
        "client_names": name_clients(recipe, worker),
    }


def _rows(recipe: Recipe, worker: Worker) -> dict[str, list[int]]:
    """How many rows each client trains on, and what ``max_length`` did to the others.

    Nothing on a network, where the nodes' rows are their own.
    """
    if recipe.federation.deployment is not None:
        return {}
    counts = [worker.data.counts(client) for client in worker.data.parts]
    rows = {"client_rows": [each.kept for each in counts]}
    for word in ("cut", "dropped", "mute", "parted"):
        if any(lost := [getattr(each, word) for each in counts]):
            rows[f"client_rows_{word}"] = lost
    if any(each.packed for each in counts):
        rows["client_rows_packed"] = [each.packed or 0 for each in counts]
    return rows


def _held_out(worker: Worker) -> dict[str, int]:
    counts = worker.data.held_out_counts(None)
    lost = {"held_out_rows_cut": counts.cut, "held_out_rows_dropped": counts.dropped}
    return {"held_out_rows": counts.kept} | {name: count for name, count in lost.items() if count}
