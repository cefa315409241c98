"""What the model says to held-out prompts, before the run and after it."""

from __future__ import annotations

import json

from torch import Tensor

from fedtune.durable import write_whole
from fedtune.recipe import Recipe
from fedtune.records.folder import RunFolder
from fedtune.training.worker import Worker


def write_samples(recipe: Recipe, folder: RunFolder, worker: Worker, anchor: Tensor) -> None:
    """Write ``samples.jsonl``, where the recipe asks for samples.

    Args:
        recipe: The run's.
        folder: The run's.
        worker: Holds the model and the data.
        anchor: A float32 row of the whole layout.
    """
    if recipe.evaluation.samples == 0:
        return
    before, after = worker.evaluator.samples(worker.initial), worker.evaluator.samples(anchor)
    lines = [
        {"prompt": old.prompt, "truth": old.truth, "before": old.completion,
         "after": new.completion}
        for old, new in zip(before, after, strict=True)
    ]  # fmt: skip
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_whole(folder.path / "samples.jsonl", text)
