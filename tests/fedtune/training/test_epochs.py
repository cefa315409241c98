"""Epochs in the place of steps: each client counts its own, from the rows that it trains on.

Not proven here: several devices.
"""

import pytest
import torch
from plain_trl import an_anchor

from fedtune.recipe import RecipeError, parse_recipe
from fedtune.runs.checks.rows import look_at_rows
from fedtune.training.epochs import most_steps
from fedtune.training.plan import Plan
from fedtune.training.tasks import TASKS

UNEQUAL = {"partition": {"by": "size", "sizes": "linear", "min_rows": 2}}


def steps_of(rows, *, task="sft", epochs=1.0, **train):
    rewards = [{"name": "format"}] if task == "grpo" else []
    federation = {"local_epochs": epochs}
    recipe = parse_recipe(
        {"task": task, "rewards": rewards, "train": train, "federation": federation}
    )
    plan = Plan.of(recipe, torch.device("cpu"), torch.float32)
    return plan.counted(rows, TASKS[task].steps_for).local_steps


def test_steps_of_an_epoch_by_hand():
    assert steps_of(16, per_device_train_batch_size=4) == 4
    assert steps_of(17, per_device_train_batch_size=4) == 5  # as num_train_epochs: 4 and a rest
    assert steps_of(16, per_device_train_batch_size=4, gradient_accumulation_steps=2) == 2
    assert steps_of(16, epochs=0.5, per_device_train_batch_size=4) == 2
    assert steps_of(16, epochs=2.5, per_device_train_batch_size=4) == 10
    assert steps_of(10, epochs=0.1, per_device_train_batch_size=1) == 1  # 0.1 x 10 is 1
    assert steps_of(30, epochs=0.1, per_device_train_batch_size=1) == 3  # no 3.0000000000000004
    assert steps_of(1, epochs=0.01) == 1
    # 8 answers a step, 4 to a prompt: 2 prompts a step.
    generated = {"per_device_train_batch_size": 8, "num_generations": 4}
    assert steps_of(6, task="grpo", **generated) == 3
    assert steps_of(7, task="grpo", **generated) == 4
    assert steps_of(6, task="grpo", num_iterations=2, **generated) == 6
    # Two steps' answers at once, 4 prompts: 6 prompts are two such times.
    assert steps_of(6, task="grpo", steps_per_generation=2, **generated) == 4


def test_clients_with_more_rows_take_more_steps_to_the_bits_of_so_many(make_worker):
    epochs = {"num_clients": 3, "num_rounds": 2, "local_epochs": 1, "local_steps": None}
    worker = make_worker(data=UNEQUAL, federation=epochs)
    anchor, taken = an_anchor(worker), []
    for client in (0, 2):
        rows = len(worker.data.train_rows(client))
        steps = -(-rows // 4)
        taken.append(steps)
        trained = worker.trainer.train(anchor, client=client, round_=2)
        said = {**epochs, "local_epochs": None, "local_steps": steps}
        same = make_worker(data=UNEQUAL, federation=said)
        again = same.trainer.train(anchor, client=client, round_=2)
        assert torch.equal(trained.delta, again.delta)
        assert trained.train_loss == again.train_loss
    assert taken[0] < taken[1]
    assert most_steps(worker.recipe, own=False) == taken[1]


def test_check_says_how_many_steps_each_takes(make_worker):
    federation = {"num_clients": 3, "local_epochs": 2, "local_steps": None}
    recipe = make_worker(data=UNEQUAL, federation=federation).recipe
    counts = look_at_rows(recipe).counts
    few, many = (-(-2 * counts[client].kept // 4) for client in (0, 2))
    told = f"local_epochs: in a round {few} steps of client 0 to {many} of client 2; who"
    assert any(told in note for note in look_at_rows(recipe).notes)


def test_one_of_the_two_is_said():
    recipe = parse_recipe({"federation": {"local_epochs": 1}})
    assert recipe.federation.local_steps is None
    assert parse_recipe(recipe.model_dump_json()) == recipe
    assert recipe.federation.work == "1 local epoch"
    with pytest.raises(RecipeError, match="got both; write local_steps: null"):
        parse_recipe({"federation": {"local_epochs": 1, "local_steps": 10}})
    with pytest.raises(RecipeError, match="needs local_steps or local_epochs; got neither"):
        parse_recipe({"federation": {"local_steps": None}})
