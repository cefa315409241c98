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
    """
    far = recipe.federation.deployment is not None  # each node has its owner's rows
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
        "client_rows": [] if far else [len(part.train) for part in worker.data.parts.values()],
        "server_rows": len(worker.data.server_rows),
        "simulated_attackers": sorted(byzantine_clients(recipe)),
        "client_names": name_clients(recipe, worker),
    }
