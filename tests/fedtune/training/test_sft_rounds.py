"""Round after round: one schedule, one data order, an optimizer kept or not, nothing left over."""

import math
import sys

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from fedtune.training.generation import complete
from fedtune.training.tasks.running import make_config


def rates(worker, rounds):
    """The learning rate of every optimizer step, as the optimizer has it when it steps."""
    seen = []

    def record(optimizer, args, kwargs):
        seen.append(optimizer.param_groups[0]["lr"])

    hook = register_optimizer_step_pre_hook(record)
    try:
        for round_ in rounds:
            worker.trainer.train(worker.initial, client=0, round_=round_)
    finally:
        hook.remove()
    return seen


def scheduled(make_worker, num_rounds, local_steps, **keys):
    federation = {"num_rounds": num_rounds, "local_steps": local_steps}
    return make_worker(train={"learning_rate": 1.0} | keys, federation=federation)


@pytest.mark.parametrize("warmup", [2, 0.25])
def test_a_linear_schedule_by_hand(make_worker, warmup):
    worker = scheduled(make_worker, 2, 4, lr_scheduler_type="linear", warmup_steps=warmup)
    # 8 steps in all, 2 of them warm-up: 0, 1/2, then 6/6 down to 1/6.
    assert rates(worker, [1]) == pytest.approx([0, 1 / 2, 6 / 6, 5 / 6])
    assert rates(worker, [2]) == pytest.approx([4 / 6, 3 / 6, 2 / 6, 1 / 6])


def test_the_rounds_go_through_one_cosine(make_worker):
    keys = {"lr_scheduler_type": "cosine", "warmup_steps": 3}
    short = rates(scheduled(make_worker, 3, 4, **keys), [1, 2, 3])
    assert short == rates(scheduled(make_worker, 1, 12, **keys), [1])
    # Step 3 + s of 12 is (1 + cos(pi s / 9)) / 2.
    by_hand = [(1 + math.cos(math.pi * s / 9)) / 2 for s in range(9)]
    assert short == pytest.approx([0, 1 / 3, 2 / 3, *by_hand])


def test_a_round_knows_its_rates_without_those_before(make_worker):
    worker = scheduled(make_worker, 3, 4, lr_scheduler_type="cosine")
    assert rates(worker, [3]) == rates(worker, [1, 2, 3])[8:]


@pytest.fixture(scope="module")
def two_rounds(make_worker, tmp_path_factory):
    """Two rounds of four steps, with the optimizer's state kept, reset, and one round of eight."""

    def chain(worker, rounds, folder=None):
        anchor, deltas = worker.initial, []
        for round_ in rounds:
            trained = worker.trainer.train(anchor, client=0, round_=round_, state_folder=folder)
            deltas.append(trained.delta)
            anchor = anchor + trained.delta
        return anchor

    keep = make_worker(federation={"inner_optimizer": "keep"})
    long = make_worker(federation={"num_rounds": 1, "local_steps": 8})
    folder = tmp_path_factory.mktemp("state")
    return {
        "keep": chain(keep, [1, 2], folder),
        "keep, round 2 again": chain(keep, [1], None) + keep.trainer.train(
            chain(keep, [1], None), client=0, round_=2, state_folder=folder
        ).delta,
        "reset": chain(make_worker(), [1, 2]),
        "long": chain(long, [1]),
    }  # fmt: skip


def test_two_rounds_with_a_kept_optimizer_are_one_long_round(two_rounds):
    """Not to the bit: between the rounds anchor + (local - anchor) is rounded; measured 1.5e-8."""
    difference = (two_rounds["keep"] - two_rounds["long"]).abs().max().item()
    moved = (two_rounds["long"] - two_rounds["reset"]).abs().max().item()
    assert difference < 1e-6
    assert moved > 1e-3  # so that a state that was lost would be seen


def test_a_round_taken_again_starts_from_the_state_before_it(two_rounds):
    """A run that is resumed repeats a round; its state must not be the one of that round."""
    assert torch.equal(two_rounds["keep, round 2 again"], two_rounds["keep"])


def test_without_a_folder_or_a_key_nothing_is_kept(make_worker, tmp_path):
    worker = make_worker()
    worker.trainer.train(worker.initial, client=0, round_=1, state_folder=tmp_path / "state")
    assert not (tmp_path / "state").exists()


def test_only_a_few_states_are_kept(make_worker, tmp_path):
    worker = make_worker(
        federation={"inner_optimizer": "keep", "num_rounds": 6, "local_steps": 1},
        lora={"target_modules": ["q_proj"]},
    )
    for round_ in range(1, 7):
        worker.trainer.train(worker.initial, client=0, round_=round_, state_folder=tmp_path)
    assert [path.stem for path in sorted((tmp_path / "both").iterdir())] == [
        "round-000004",
        "round-000005",
        "round-000006",
    ]


def depth_of_forward(worker):
    """Frames between a call of the model and its innermost layer."""
    depths = []

    def look(module, args):
        frame, depth = sys._getframe(), 0
        while frame is not None:
            frame, depth = frame.f_back, depth + 1
        depths.append(depth)

    hook = worker.model.get_base_model().model.layers[0].mlp.register_forward_pre_hook(look)
    with torch.no_grad():
        worker.model.eval()(input_ids=torch.tensor([[7, 8, 9]]))
    hook.remove()
    return depths[0]


@pytest.mark.slow
def test_fifty_trainings_leave_the_model_as_it_was(make_worker):
    """TRL wraps the base's forward in each trainer: 50 of them once nested 50 calls deep."""
    worker = make_worker(
        lora={"target_modules": ["q_proj"], "r": 1},
        train={"per_device_train_batch_size": 1},
        federation={"num_rounds": 50, "local_steps": 1},
    )
    tokenizer = worker.base.tokenizer
    prompts = [tokenizer("add 1 2: ").input_ids]
    base = worker.model.get_base_model()
    worker.trainer.train(worker.initial, client=0, round_=1)
    worker.evaluator.measure(worker.initial)
    before = depth_of_forward(worker), set(worker.model.__dict__), set(base.__dict__)
    assert "forward" not in base.__dict__
    said = complete(prompts, worker.model, tokenizer, max_new_tokens=8)
    for round_ in range(1, 51):
        worker.trainer.train(worker.initial, client=round_ % 2, round_=round_)
    assert (depth_of_forward(worker), set(worker.model.__dict__), set(base.__dict__)) == before
    # With the first adapter back in place, the model says what it said.
    worker.evaluator.measure(worker.initial)
    assert complete(prompts, worker.model, tokenizer, max_new_tokens=8) == said


def test_many_gpus_in_sight_are_one_device_to_a_client(worker, monkeypatch):
    """The count is transformers' own, set as two GPUs set it; the tests may have none."""
    from trl import SFTConfig

    set_up = SFTConfig.__post_init__

    def with_two_gpus(config):
        set_up(config)
        config._n_gpu = 2

    monkeypatch.setattr(SFTConfig, "__post_init__", with_two_gpus)
    config = make_config(SFTConfig, worker.plan, steps=1, seed=0)
    assert config.n_gpu == 1
    assert config.train_batch_size == config.per_device_train_batch_size == 4
    assert worker.trainer.train(worker.initial, client=0, round_=1).delta.any()  # TRL refuses two


def test_the_loss_falls(make_worker):
    worker = make_worker(
        lora={"modules_to_save": ["lm_head"]},  # random layers alone have little to offer
        train={"learning_rate": 2e-2},
        federation={"num_clients": 1, "num_rounds": 1, "local_steps": 40},
    )
    before = worker.evaluator.measure(worker.initial).loss
    trained = worker.trainer.train(worker.initial, client=0, round_=1)
    after = worker.evaluator.measure(worker.initial + trained.delta).loss
    assert before == pytest.approx(math.log(264), abs=0.2)  # a guess among 264 tokens: 5.58
    assert after < before - 1
    assert after < trained.train_loss < before  # the mean over the steps lies between
