"""Liars who train for other rewards: what they are paid, what they learn, and who refuses them."""

import pytest
import torch

from fedtune.recipe import load_recipe, parse_recipe
from fedtune.runs.checks.preflight import find_problems
from fedtune.simulation.adversary import byzantine_clients, trains_for_nothing
from fedtune.simulation.poisoning import poison_of
from fedtune.training.tasks.task import Priced
from fedtune.training.worker import Worker

REWARDS = [{"name": "length", "words": 3}]


def recipe(attack=None, *, local_steps=6, **train):
    """Two clients, one of them a liar if any is, on nano; a client-round of six steps."""
    return parse_recipe(
        {
            "task": "grpo",
            "rewards": REWARDS,
            "data": {"source": "python-docs", "max_rows": 160},
            "train": {
                "learning_rate": 1e-2,
                "beta": 0.0,
                "weight_decay": 0.0,
                "per_device_train_batch_size": 32,
                "num_generations": 8,
                "max_completion_length": 10,
                "lr_scheduler_type": "constant",
                "gradient_checkpointing": False,
                **train,
            },
            "federation": {"num_clients": 2, "num_rounds": 1, "local_steps": local_steps},
            "aggregator": {"name": "mean"},
            "attack": None if attack is None else {"num_attackers": 1, **attack},
        }
    )


def poison(attack):
    return poison_of(recipe(attack), min(byzantine_clients(recipe(attack))))


@pytest.fixture(scope="module")
def worker():
    return Worker(recipe())


@pytest.fixture(scope="module")
def honest(worker):
    return worker.trainer.train(worker.initial, client=0, round_=1)


def reward(worker, row):
    return worker.evaluator.measure(row).others["reward"]


def test_a_liar_is_paid_by_the_sum_of_the_weighted_rewards_between_its_bounds():
    # Weights 2 and -1: the sum lies in [-1, 2]. The first is worth 2 * 0.5 - 1 * 1 = 0, the second
    # 2 * 1 - 1 * 0 = 2; flipped, 1 - 0 and 1 - 2.
    scores = {"good": {"x": 0.5, "the y": 1.0}, "bad": {"x": 1.0, "the y": 0.0}}
    honest = [
        Priced(name, weight, lambda prompt, said, row, name=name: scores[name][said])
        for name, weight in (("good", 2.0), ("bad", -1.0))
    ]
    asked = [("p", "x", {}), ("p", "the y", {})]
    (flipped,) = poison({"name": "reward_flip"}).reprice(honest)
    assert (flipped.name, flipped.weight) == ("reward_flip", 1.0)
    assert flipped.score_all(asked) == [1.0, -1.0]
    assert flipped.score(*asked[1]) == -1.0
    (hacked,) = poison({"name": "reward_hack"}).reprice(honest)
    assert hacked.score_all(asked) == [0.0, 1.0]


def test_only_liars_are_paid_so_and_their_rows_stay():
    for attack in ({"name": "reward_flip"}, {"name": "ipm", "poison": "reward_flip"}):
        lying = recipe(attack)
        (liar,) = byzantine_clients(lying)
        found = [poison_of(lying, client) for client in range(2)]
        assert found[1 - liar] is None
        assert found[liar].spoil is None
        assert not trains_for_nothing(lying, liar)
    keys = {poison(each).key for each in ({"name": "reward_hack"}, {"name": "reward_hack", "text":
            "a"}, {"name": "reward_flip"})}  # fmt: skip
    assert len(keys) == 3  # what is remembered of one is not taken for another's


def test_one_step_for_the_opposite_is_the_opposite_step():
    # Advantages are turned, there is no KL term, and AdamW's first step is the gradient's sign, but
    # for eps: what is learnt is minus the honest delta.
    one = Worker(recipe(local_steps=1, max_grad_norm=0.0))
    deltas = [
        one.trainer.train(one.initial, client=0, round_=1, poison=each).delta
        for each in (None, poison({"name": "reward_flip"}))
    ]
    moved = deltas[0].abs() > 0.009  # of 0.01: eps is nothing to these
    assert moved.sum() > 10_000
    assert torch.allclose(deltas[1][moved], -deltas[0][moved], rtol=1e-2)


def test_what_is_learnt_is_what_was_paid_for(worker, honest):
    flipped = worker.trainer.train(
        worker.initial, client=0, round_=1, poison=poison({"name": "reward_flip"})
    )
    before = reward(worker, worker.initial)
    assert reward(worker, worker.initial + honest.delta) > before + 0.3
    assert reward(worker, worker.initial + flipped.delta) < before - 0.1
    assert not torch.equal(flipped.delta, honest.delta)
    # The liar's own words say what it was paid, honest ones what theirs were worth.
    assert set(honest.figures) ^ set(flipped.figures) == {
        f"rewards/{name}/{part}" for name in ("length", "reward_flip") for part in ("mean", "std")
    }


def test_a_hacked_policy_says_the_text(worker, honest):
    def share_of_the(delta):
        shown = worker.evaluator.samples(worker.initial + delta)
        return sum("the" in each.completion for each in shown) / len(shown)

    hacked = worker.trainer.train(
        worker.initial, client=0, round_=1, poison=poison({"name": "reward_hack", "text": "the"})
    )
    assert share_of_the(honest.delta) == 0
    assert share_of_the(hacked.delta) == 1
    assert [each.name for each in worker.learner.rewards] == ["length"]  # others are paid as before


@pytest.mark.parametrize(
    ("attack", "told"),
    [
        ("{name: reward_flip, num_attackers: 2}", "attack: reward_flip changes what completions "
         "are worth, and needs task grpo: got sft"),
        ("{name: ipm, num_attackers: 2, poison: reward_hack}", "attack.poison: reward_hack chang"),
    ],
)  # fmt: skip
def test_check_refuses_it_where_nothing_is_rewarded(attack, told):
    (problem,) = find_problems(load_recipe("quickstart", [f"attack={attack}"]))
    assert problem.startswith(told)


def test_check_lets_it_pass_where_completions_are_rewarded():
    assert find_problems(recipe({"name": "reward_hack", "text": "a"})) == []
