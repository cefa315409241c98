"""Nothing grows with the rounds, nor with the runs, of one process.

Not proven here: Ray's own processes, and the allocator of a GPU.
"""

import gc
import os
import weakref
from pathlib import Path

import psutil
import pytest
import torch

from fedtune.records.events import RoundFinished
from fedtune.records.folder import RunFolder
from fedtune.runs.loop import Run
from fedtune.simulation import client
from fedtune.training.process import get_worker
from fedtune.transport.local import LocalTransport

SHORT = {"num_generations": 2, "max_completion_length": 4, "beta": 0.05}
OF_TASK = {  # the format of its rows, and what its recipe says besides
    "sft": ("prompt_completion", {}),
    "reward": ("pairs", {}),
    "dpo": ("pairs", {}),
    "grpo": ("prompts", {"train": SHORT, "rewards": [{"name": "length", "words": 3}]}),
}


def objects_and_tensor_bytes():
    """What was made since the worker froze the heap, and is still alive."""
    gc.collect()
    alive = gc.get_objects()
    tensors = [each for each in alive if issubclass(type(each), torch.Tensor)]
    return len(alive), sum(tensor.nbytes for tensor in tensors)


def measure_after(rounds, recipe, measure):
    """Run a recipe, and measure after some of its rounds."""
    folder, recipe = RunFolder.create(recipe)
    measured = []

    def observe(event):
        if isinstance(event, RoundFinished) and event.record.round in rounds:
            measured.append(measure())

    Run(recipe, folder, observe).serve(LocalTransport(client.app, recipe.federation.num_clients))
    return measured


@pytest.mark.parametrize(
    "task",
    ["sft", "grpo", *(pytest.param(each, marks=pytest.mark.slow) for each in ("dpo", "reward"))],
)
@pytest.mark.slow
def test_30_more_rounds_leave_nothing_behind(task, tiny_recipe, small_data):
    import datasets

    # An adapter kept per round would be 1,024 floats: 120 kB in 30 rounds, and 30 objects. Python's
    # own caches of classes fill up until the second measurement of the model, after round 20.
    format_, keys = OF_TASK[task]
    recipe = tiny_recipe(
        task=task,
        data={"source": str(small_data("jsonl", format_))},
        **keys,
        federation={"num_clients": 2, "clients_per_round": 1, "num_rounds": 50, "local_steps": 1},
        evaluation={"max_rows": 2, "every": 10},
        aggregator={"name": "centered_clipping"},
        outer={"name": "nesterov"},
    )
    caches = Path(datasets.config.HF_DATASETS_CACHE)
    files = []

    def measure():
        files.append(len(list(caches.rglob("*.arrow"))))
        return objects_and_tensor_bytes()

    after_20, after_50 = measure_after({20, 50}, recipe, measure)
    assert files[1] == files[0]
    assert after_50[1] == after_20[1]
    assert after_50[0] - after_20[0] < 20


def test_a_process_keeps_no_more_than_two_bases_however_many_recipes_it_has_run(tiny_recipe):
    models = []
    for seed in range(5):
        worker = get_worker(tiny_recipe(federation={"seed": seed}).model_dump_json())
        worker.trainer.train(worker.initial, client=0, round_=1)
        models.append(weakref.ref(worker.base.model))
        del worker
    alive = sum(model() is not None for model in models)
    assert alive <= 2


@pytest.mark.slow
@pytest.mark.parametrize("task", sorted(OF_TASK))
def test_resident_memory_is_flat_from_round_5_to_50_on_nano(task, tiny_recipe, small_data):
    format_, keys = OF_TASK[task]
    recipe = tiny_recipe(
        task=task,
        data={"source": str(small_data("jsonl", format_))},
        **keys,
        model={"name_or_path": "nano"},
        federation={"num_clients": 2, "num_rounds": 50, "local_steps": 2},
        evaluation={"max_rows": 2},
    )
    process = psutil.Process(os.getpid())
    resident = measure_after({5, 20, 50}, recipe, lambda: process.memory_info().rss / 1e6)
    print(task, "resident MB after rounds 5, 20 and 50:", *map(round, resident))
    assert resident[2] - resident[0] < 20
