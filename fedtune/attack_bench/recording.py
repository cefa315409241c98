"""The honest updates of a real run, recorded for level vectors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from fedtune.durable import make_folder, put_in_place
from fedtune.origin import made_by
from fedtune.recipe import Recipe
from fedtune.round.aggregation.outer import OuterOptimizer
from fedtune.training.process import get_worker


def record_rounds(recipe: Recipe, folder: Path) -> Path:
    """Run the base recipe honestly with the mean, and keep every client's delta.

    A record that is there is kept: its folder is named by the recipe, the code and the torch
    that made it.

    Args:
        recipe: Without attack, with the mean and fedavg.
        folder: Where the records of a bench lie.

    Returns:
        The file, with ``anchors`` (rounds, d), ``rows`` (rounds, n, d) and the layout.
    """
    words = recipe.model_dump_json(exclude={"output_dir", "report_to"}) + made_by()
    path = folder / hashlib.sha256(words.encode()).hexdigest()[:20] / "rounds.safetensors"
    if path.is_file():
        return path
    worker = get_worker(recipe.model_dump_json())
    outer = OuterOptimizer(recipe.outer, worker.initial)
    anchors, rows = [], []
    for round_ in range(1, recipe.federation.num_rounds + 1):
        anchor = outer.anchor
        deltas = [
            worker.trainer.train(anchor, client=client, round_=round_).delta
            for client in range(recipe.federation.num_clients)
        ]
        anchors.append(anchor)
        rows.append(torch.stack(deltas))
        outer.step(rows[-1].mean(dim=0, dtype=torch.float64).to(torch.float32))
    make_folder(path.parent)
    unfinished = path.with_name(f".{path.name}.tmp")
    tensors = {"anchors": torch.stack(anchors), "rows": torch.stack(rows)}
    save_file(tensors, unfinished, metadata={"layout": json.dumps(worker.layout.shapes)})
    put_in_place(unfinished, path)
    return path
