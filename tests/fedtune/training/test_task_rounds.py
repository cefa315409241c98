"""Round after round of any task: nothing is left on the model that the clients share."""

import sys
from dataclasses import replace

import pytest
import torch
from plain_trl import an_anchor

from fedtune.training import memo
from fedtune.training.client_round import Poison
from fedtune.training.tasks import TASKS
from fedtune.training.tasks.task import Priced

CASES = {
    "reward": {"task": "reward"},
    "dpo": {"task": "dpo"},
    "grpo": {"task": "grpo"},
    "grpo against a reference": {"task": "grpo", "train": {"beta": 0.1}},
}
every_task = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def state_of(worker):
    """What a trainer could leave: adapters, attributes, hooks, flags, and calls that nest."""
    model, base = worker.model, worker.model.get_base_model()
    assert list(model.peft_config) == ["default"]
    assert model.active_adapter == "default"
    assert "forward" not in base.__dict__
    assert all(each.grad is None for each in model.parameters())
    return (
        set(model.__dict__),
        set(base.__dict__),
        [name for name, each in model.named_parameters() if each.requires_grad],
        [name for name, _ in model.named_parameters()],
        [len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.modules()],
        depth_of_forward(worker),
    )


def depth_of_forward(worker):
    """Frames between a call of the model and its innermost layer."""
    depths = []

    def look(module, args):
        frame, depth = sys._getframe(), 0
        while frame is not None:
            frame, depth = frame.f_back, depth + 1
        depths.append(depth)

    inner = worker.model.get_base_model().model.layers[0].mlp
    hook = inner.register_forward_pre_hook(look)
    with torch.no_grad():
        worker.model.eval()(input_ids=torch.tensor([[7, 8, 9]]))
    hook.remove()
    return depths[0]


def frozen_of(worker):
    """What no one trains."""
    return {
        name: tensor.clone()
        for name, tensor in worker.model.state_dict().items()
        if "lora_" not in name and "modules_to_save" not in name
    }


ALTERNATE = {"lora": {"train": "alternate"}}
RECOMPUTED = {"gradient_checkpointing": True}  # activations, as TRL does unless told not to


@pytest.mark.parametrize(
    "case",
    {
        **CASES,
        "dpo, alternate": {"task": "dpo", **ALTERNATE},
        "grpo, alternate": {"task": "grpo", "train": {"beta": 0.1}, **ALTERNATE},
        "sft, recomputed": {"task": "sft", "train": RECOMPUTED},
        "reward, recomputed": {"task": "reward", "train": RECOMPUTED},
        "grpo, recomputed": {"task": "grpo", "train": {"beta": 0.1, **RECOMPUTED}},
    }.items(),
    ids=lambda case: case[0],
)
def test_nothing_is_left_on_the_model(make_worker, case):
    worker = make_worker(**case[1], federation={"local_steps": 1})
    before, frozen = state_of(worker), frozen_of(worker)
    trainable = before[2]
    worker.trainer.train(worker.initial, client=0, round_=1)
    first = state_of(worker)
    assert first[2] == trainable
    for round_ in (2, 3):
        worker.trainer.train(worker.initial, client=round_ % 2, round_=round_)
        assert state_of(worker) == first
    worker.evaluator.measure(worker.initial)
    assert state_of(worker) == first
    worker.evaluator.samples(worker.initial)
    assert state_of(worker) == first
    assert first[4] == before[4]
    assert first[5] == before[5]  # no call more than before there was a trainer
    after = frozen_of(worker)
    assert set(after) == set(frozen)
    assert all(torch.equal(after[name], tensor) for name, tensor in frozen.items())


@every_task
def test_a_round_depends_on_nothing_that_came_before(make_worker, case):
    one, other = make_worker(**case), make_worker(**case)
    first = {client: one.trainer.train(one.initial, client=client, round_=1) for client in (0, 1)}
    torch.manual_seed(99)
    other.evaluator.measure(an_anchor(other))
    other.trainer.train(an_anchor(other), client=0, round_=2)
    other.evaluator.samples(an_anchor(other))
    for client in (1, 0):
        again = other.trainer.train(other.initial, client=client, round_=1)
        assert torch.equal(again.delta, first[client].delta)
        assert again.train_loss == first[client].train_loss
        assert again.figures == first[client].figures
    assert not torch.equal(first[0].delta, first[1].delta)
    assert other.evaluator.measure(other.initial) == one.evaluator.measure(one.initial)


@every_task
def test_a_trainer_that_fails_leaves_nothing_either(make_worker, case):
    worker = make_worker(**case, federation={"local_steps": 2})
    before, learner = state_of(worker), worker.learner

    def fail(prompt, completion, row):
        raise ArithmeticError("no worth")

    if case["task"] == "grpo":
        worker.trainer.loaded.learner = replace(learner, rewards=[Priced("fails", 1.0, fail)])
        error = ArithmeticError
    else:
        wrong = {"dpo": {"loss_type": "none"}, "reward": {"center_rewards_coefficient": "high"}}
        train = learner.plan.train | wrong[case["task"]]
        worker.trainer.loaded.learner = replace(learner, plan=replace(learner.plan, train=train))
        error = (ValueError, TypeError)
    with pytest.raises(error):
        worker.trainer.train(worker.initial, client=0, round_=2)
    worker.trainer.loaded.learner = learner
    assert state_of(worker)[2:] == before[2:]
    delta = worker.trainer.train(worker.initial, client=0, round_=2).delta
    fresh = make_worker(**case, federation={"local_steps": 2})
    assert torch.equal(delta, fresh.trainer.train(fresh.initial, client=0, round_=2).delta)
    assert delta.any()


@every_task
def test_a_client_round_is_recalled_with_its_figures(make_worker, case, tmp_path):
    one, other = (make_worker(**case, federation={"local_steps": 1}) for _ in range(2))
    with memo.remembering(tmp_path):
        first = one.trainer.train(one.initial, client=0, round_=1)
        again = other.trainer.train(one.initial, client=0, round_=1)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    assert torch.equal(first.delta, again.delta)
    assert first.train_loss == again.train_loss
    assert first.figures == again.figures
    assert len(first.figures) > 5


@every_task
def test_a_liar_sees_the_rows_that_training_looks_at(make_worker, case):
    worker, seen = make_worker(**case, federation={"local_steps": 2}), []

    def spoil(rows):
        seen.extend(rows)
        turned = {"chosen": "rejected", "rejected": "chosen", "answer": "prompt"}
        return [{name: row[turned.get(name, name)] for name in row} for row in rows]

    honest = worker.trainer.train(worker.initial, client=0, round_=1).delta
    lying = worker.trainer.train(
        worker.initial, client=0, round_=1, poison=Poison("turned", spoil)
    ).delta
    whole = {"prompt", "answer", "topic"}  # rewards may look at all of a row
    assert set(seen[0]) == (whole if case["task"] == "grpo" else {"prompt", "chosen", "rejected"})
    assert len(seen) == len(worker.data.parts[0].train)
    # No reward of this recipe looks at the answer: GRPO's liar has changed nothing.
    assert torch.equal(honest, lying) == (case["task"] == "grpo")


def test_every_task_is_here():
    assert {case["task"] for case in CASES.values()} | {"sft"} == set(TASKS)
