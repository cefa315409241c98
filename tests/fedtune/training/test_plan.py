"""The order of the rows, and the keys inside ``train:``."""

import dataclasses
from collections import Counter

import pytest
import torch

from fedtune.recipe import parse_recipe
from fedtune.training.plan import OWNED, Plan, check_train_keys, draw_rows
from fedtune.training.tasks import TASKS, dpo, grpo, reward, sft
from fedtune.training.tasks.running import EVERY_STEP, check_values, rows_per_round


def plan(train=None, **federation):
    recipe = parse_recipe({"train": train or {}, "federation": federation})
    return Plan.of(recipe, torch.device("cpu"), torch.float32)


def draw(rounds, *, num_rows=10, seed=0, order=0, batch=2, steps=2):
    each = rows_per_round(plan({"per_device_train_batch_size": batch}, local_steps=steps))
    return [draw_rows(each, num_rows, seed=seed, order=order, round_=round_) for round_ in rounds]


def problems_of(*keys, task="sft"):
    return check_train_keys(keys, TASKS[task].config, TASKS[task].owned)


def known_to(task):
    return {each.name for each in dataclasses.fields(TASKS[task].config) if each.init}


def test_rows_per_round_by_hand():
    from trl import SFTConfig

    train = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2}
    assert rows_per_round(plan(train, local_steps=5)) == 30  # 5 x 3 x 2
    default = SFTConfig(output_dir="x", use_cpu=True, bf16=False)
    assert rows_per_round(plan(local_steps=1)) == default.per_device_train_batch_size == 8
    assert plan(local_steps=5, num_rounds=4).total_steps == 20


def test_each_epoch_visits_every_row_once_across_rounds():
    # 10 rows, 4 a round: 5 rounds are 20 rows, two epochs.
    stream = [row for part in draw(range(1, 6)) for row in part]
    assert len(stream) == 20
    assert sorted(stream[:10]) == sorted(stream[10:]) == list(range(10))
    assert stream[:10] != stream[10:]
    # 4, 4 and then 2 of the first epoch: the third round goes over into the next.
    assert sorted(stream[:8] + stream[8:10]) == list(range(10))


def test_more_rows_a_round_than_there_are():
    # 3 rows, 8 a round: each row 2 or 3 times, never one often and another not at all.
    for part in draw([1, 2, 3], num_rows=3, batch=4):
        assert set(Counter(part).values()) <= {2, 3, 4}
    stream = [row for part in draw([1, 2, 3], num_rows=3, batch=4) for row in part]
    assert Counter(stream) == {0: 8, 1: 8, 2: 8}  # 24 rows, 8 epochs


def test_rounds_of_any_length_cut_one_stream():
    """Round r is drawn by itself, without those before it, and is the same stretch."""
    (whole,) = draw([1], steps=30)
    assert [row for part in draw(range(1, 16)) for row in part] == whole
    assert draw([12])[0] == whole[44:48]
    assert draw([12], steps=1)[0] == whole[22:24]


def test_seed_client_and_round_each_change_the_order():
    base = draw([1], num_rows=100)
    assert draw([1], num_rows=100) == base
    assert draw([2], num_rows=100) != base
    assert draw([1], num_rows=100, seed=1) != base
    assert draw([1], num_rows=100, order=1) != base
    assert draw([1], num_rows=100, order="shared") != base


def test_known_keys_pass():
    assert problems_of("learning_rate", "max_length", "warmup_steps") == []
    assert problems_of("center_rewards_coefficient", "max_length", task="reward") == []
    assert problems_of("beta", "loss_type", "max_length", task="dpo") == []
    assert problems_of("beta", "num_generations", "temperature", task="grpo") == []


@pytest.mark.parametrize(
    ("task", "key", "meant"),
    [
        ("sft", "learning_rat", "learning_rate"),
        ("sft", "per_device_train_batchsize", "per_device_train_batch_size"),
        ("reward", "max_lenght", "max_length"),
        ("reward", "center_reward_coefficient", "center_rewards_coefficient"),
        ("dpo", "betta", "beta"),
        ("dpo", "loss_types", "loss_type"),
        ("grpo", "num_generation", "num_generations"),
        ("grpo", "max_completions_length", "max_completion_length"),
        ("grpo", "betta", "beta"),
    ],
)
def test_a_typo_names_the_nearest_key_of_the_tasks_own_config(task, key, meant):
    assert meant in known_to(task)
    assert problems_of(key, task=task) == [f"train.{key}: unknown to TRL; did you mean {meant!r}?"]


@pytest.mark.parametrize(
    ("task", "key"),
    [("sft", "beta"), ("reward", "beta"), ("dpo", "num_generations"), ("grpo", "max_length")],
)
def test_a_key_of_another_task_is_refused(task, key):
    (problem,) = problems_of(key, task=task)
    assert problem.startswith(f"train.{key}: unknown to TRL; ")


@pytest.mark.parametrize("task", TASKS)
def test_a_key_like_no_other_is_refused_too(task):
    name = {"sft": "SFTConfig", "reward": "RewardConfig", "dpo": "DPOConfig", "grpo": "GRPOConfig"}
    assert problems_of("zzzz", task=task) == [f"train.zzzz: unknown to TRL; see its {name[task]}"]


def test_keys_that_fedtune_sets_say_what_to_write():
    assert problems_of("max_steps", "bf16", "seed") == [
        "train.max_steps: fedtune sets it; write federation.local_steps",
        "train.bf16: fedtune sets it; write model.dtype",
        "train.seed: fedtune sets it; write federation.seed",
    ]


def test_every_key_that_a_config_is_given_is_owned():
    """Else the same key in `train:` would be overruled in silence, or given twice."""
    given = {"max_steps", "seed", "data_seed"}
    given |= set(plan().placement) - {"dataloader_pin_memory"}
    assert given <= set(OWNED)
    assert set(OWNED) - {"trust_remote_code"} <= known_to("sft")
    more = {
        sft: {"dataset_kwargs", *sft._OWN},
        reward: set(EVERY_STEP),
        dpo: {"precompute_ref_log_probs", *EVERY_STEP},
        grpo: {"reward_weights", *grpo._OWN},
    }
    for module, keys in more.items():
        assert keys <= {*OWNED, *module.TASK.owned}
        assert set(module.TASK.owned) <= known_to(module.TASK.name)


@pytest.mark.parametrize("task", TASKS)
def test_what_a_task_owns_is_refused_for_it_alone(task):
    for key, instead in TASKS[task].owned.items():
        assert problems_of(key, task=task) == [f"train.{key}: fedtune sets it; write {instead}"]
    assert problems_of("precompute_ref_log_probs", task="grpo") != problems_of(
        "precompute_ref_log_probs", task="dpo"
    )


@pytest.mark.parametrize(
    ("train", "error"),
    [
        ({"learning_rate": 1e-3, "lr_scheduler_type": "cosine"}, None),
        ({"lr_scheduler_type": "cosinus"}, "cosinus"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "must be a function of the step"),
        ({"learning_rate": "fast"}, "fast"),
    ],
)
def test_values_are_checked_by_trl(train, error):
    from trl import SFTConfig

    if error is None:
        check_values(SFTConfig, plan(train))
    else:
        with pytest.raises((TypeError, ValueError), match=error):
            check_values(SFTConfig, plan(train))
