"""A step on a toy model before a run begins: what TRL finds wrong with a value when it is used."""

import pytest
import torch

from fedtune.recipe import load_recipe, parse_recipe
from fedtune.runs.checks.preflight import find_problems
from fedtune.training import tryout
from fedtune.training.plan import Plan
from fedtune.training.tasks import TASKS

FEW = {"federation": {"num_clients": 2, "local_steps": 5}, "aggregator": {"name": "mean"}}


def problems_of(task, train):
    rewards = {"rewards": [{"name": "length"}]} if task == "grpo" else {}
    return find_problems(parse_recipe({"task": task, "train": train, **FEW, **rewards}))


@pytest.mark.parametrize(
    ("task", "train", "said"),
    [
        ("dpo", {"loss_type": "sigmod"}, "Unknown loss type: sigmod"),
        ("dpo", {"f_divergence_type": "backward"}, "Unknown f_divergence_type: backward"),
        ("dpo", {"loss_type": "exo_pair"}, "Label smoothing"),
        ("grpo", {"loss_type": "gpro"}, "Unknown loss type: gpro"),
        ("grpo", {"importance_sampling_level": "word"}, "importance sampling level: word"),
        ("grpo", {"scale_rewards": "all"}, "scale_rewards: all"),
        ("sft", {"loss_type": "nnl"}, "`loss_type` nnl"),
    ],
)
def test_a_value_that_trl_has_no_use_for_is_found_before_the_run(task, train, said):
    (line,) = problems_of(task, train)
    assert line.startswith("train.")
    assert said in line


@pytest.mark.parametrize("task", sorted(TASKS))
def test_trl_takes_its_step_under_its_own_defaults(task, monkeypatch):
    taken = []
    step = tryout.run_steps
    monkeypatch.setattr(tryout, "run_steps", lambda *a, **k: taken.append(step(*a, **k)))
    tryout._problem.cache_clear()
    tryout.check_step(task, Plan({}, 5, 1, torch.device("cpu"), torch.float32))
    assert len(taken) == 1


@pytest.mark.parametrize(
    "name",
    ["quickstart", "reward_nano", "dpo_nano", "grpo_nano"]
    + [f"qwen3-0.6b/{task}" for task in ("sft", "dpo", "grpo")]
    + ["qwen3-8b/sft_4bit"],
)
def test_no_shipped_recipe_is_refused(name):
    recipe = load_recipe(name)
    plan = Plan.of(recipe, torch.device("cpu"), torch.float32)
    tryout.check_step(recipe.task, plan)


def test_a_step_leaves_the_seed_alone_and_is_taken_once(monkeypatch):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    plan = Plan({"learning_rate": 0.125}, 5, 1, torch.device("cpu"), torch.float32)
    tryout.check_step("sft", plan)
    assert torch.equal(torch.rand(3), expected)
    monkeypatch.setattr(tryout, "run_steps", None)
    tryout.check_step("sft", plan)
