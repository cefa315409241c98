"""Nothing grows with the rounds, nor with the runs, of one process.

Not proven here: Ray's own processes, and the allocator of a GPU.
"""

import gc
import os
import weakref

import psutil
import pytest
import torch

from fedtune.federation import client
from fedtune.federation.events import RoundFinished
from fedtune.federation.folder import RunFolder
from fedtune.federation.local import LocalGrid
from fedtune.federation.server import Run
from fedtune.training.process import get_worker


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
        if isinstance(event, RoundFinished) and event.record["round"] in rounds:
            measured.append(measure())

    Run(recipe, folder, observe).serve(LocalGrid(client.app, recipe.federation.num_clients))
    return measured


def test_30_rounds_leave_no_more_behind_than_10(tiny_recipe):
    # An adapter kept per round would be 1,024 floats: 80 kB in 20 rounds, and 20 objects.
    recipe = tiny_recipe(
        federation={"num_clients": 2, "clients_per_round": 1, "num_rounds": 30, "local_steps": 1},
        evaluation={"max_rows": 2, "every": 10},
        aggregator={"name": "centered_clipping"},
        outer={"name": "nesterov"},
    )
    after_10, after_30 = measure_after({10, 30}, recipe, objects_and_tensor_bytes)
    assert after_30[1] == after_10[1]
    assert after_30[0] - after_10[0] < 20


def test_a_process_keeps_no_more_than_two_bases_however_many_recipes_it_has_run(tiny_recipe):
    models = []
    for seed in range(5):
        worker = get_worker(tiny_recipe(federation={"seed": seed}).model_dump_json())
        worker.train(worker.initial, client=0, round_=1)
        models.append(weakref.ref(worker.base.model))
        del worker
    alive = sum(model() is not None for model in models)
    assert alive <= 2


@pytest.mark.slow
def test_resident_memory_is_flat_from_round_5_to_50_on_nano(tiny_recipe):
    recipe = tiny_recipe(
        model={"name_or_path": "nano"},
        federation={"num_clients": 2, "num_rounds": 50, "local_steps": 2},
        evaluation={"max_rows": 2},
    )
    process = psutil.Process(os.getpid())
    resident = measure_after({5, 20, 50}, recipe, lambda: process.memory_info().rss / 1e6)
    print("resident MB after rounds 5, 20 and 50:", *map(round, resident))
    assert resident[2] - resident[0] < 20
