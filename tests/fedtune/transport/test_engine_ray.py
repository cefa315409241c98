"""Flower's simulation engine runs the same apps to the same bits as the in-process one.

Not proven here: several GPUs, or a Ray cluster of several machines.
"""

import pytest
from left_by_a_run import adapter_bytes, eval_records

from fedtune.records.folder import RunFolder


def on_both_engines(tiny_recipe, forked, **sections):
    federation = sections.pop("federation", {})
    folders = []
    for engine in ("local", "ray"):
        recipe = tiny_recipe(federation={**federation, "engine": engine}, **sections)
        folder, _ = RunFolder.create(recipe)
        # In a process of its own: Ray leaves files and processes to be closed at its end.
        done = forked(folder)
        assert "raised" not in done, done["raised"]
        folders.append(folder)
    return folders


@pytest.mark.slow
def test_ray_gives_the_bits_of_local(tiny_recipe, forked):
    # Two threads a client are one worker on two cores: each further one costs 12 s of imports.
    local, ray = on_both_engines(
        tiny_recipe,
        forked,
        federation={
            "num_clients": 2, "num_rounds": 1, "local_steps": 1, "threads_per_client": 2
        },
    )  # fmt: skip
    assert adapter_bytes(local) == adapter_bytes(ray)
    assert eval_records(local) == eval_records(ray)


@pytest.mark.slow
def test_ray_gives_the_bits_of_local_with_liars_and_every_kind_of_state(tiny_recipe, forked):
    local, ray = on_both_engines(
        tiny_recipe,
        forked,
        lora={"lora_dropout": 0.1},
        federation={
            "num_clients": 5,
            "clients_per_round": 4,
            "inner_optimizer": "keep",
            "commit_then_reveal": True,
        },
        aggregator={"name": "centered_clipping", "f": 1, "mixing": ["nnm"]},
        outer={"name": "nesterov"},
        attack={"name": "alie", "z": 1.0, "num_attackers": 1},
        evaluation={"per_client": True},
    )
    assert adapter_bytes(local) == adapter_bytes(ray)
    assert eval_records(local) == eval_records(ray)


@pytest.mark.slow
def test_ray_gives_the_bits_of_local_where_the_server_trains_and_ranks_differ(tiny_recipe, forked):
    local, ray = on_both_engines(
        tiny_recipe,
        forked,
        lora={"client_ranks": [2, 1, 2]},
        data={"server_rows": 8},
        federation={"num_clients": 3, "num_rounds": 2, "threads_per_client": 1},
        aggregator={"name": "fltrust", "geometry": "product"},
    )
    assert adapter_bytes(local) == adapter_bytes(ray)
    assert eval_records(local) == eval_records(ray)
