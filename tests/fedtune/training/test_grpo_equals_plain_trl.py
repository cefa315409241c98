"""A client's rounds of GRPO are a plain TRL run: the same prompts, answers, rewards and steps.

To the bit in a round, whatever beta; over rounds to the rounding of anchor + delta.

Not proven here: bfloat16, several devices, generation by vLLM.
"""

import pytest
import torch
from plain_trl import (
    CONV1D,
    FEDERATION,
    KEYS,
    SEED,
    STEPS,
    an_anchor,
    chain,
    language_model,
    plain_trainer,
    row_of,
    rows_in_order,
)
from torch.optim.optimizer import register_optimizer_step_pre_hook

from fedtune.seeds import derive

GRPO = KEYS | {
    "num_generations": 4,
    "max_completion_length": 8,
    "per_device_train_batch_size": 8,
}
PER_ROUND = 8  # prompts: 4 steps of 8 answers, 4 answers to a prompt


def shape(completions, **_):
    """By hand what `format` says: the share of four checks."""
    found = []
    for said in completions:
        text = (said if isinstance(said, str) else said[0]["content"]).strip()
        words = text.lower().split()
        thrice = any(words[i] == words[i + 1] == words[i + 2] for i in range(len(words) - 2))
        checks = [text[:1].isupper(), text.endswith("."), "\n" not in text, not thrice]
        found.append(sum(checks) / 4 if text else 0.0)
    return found


def brief(completions, **_):
    """By hand what `length` says of two words: 0, 1, 2, 3 of them."""
    texts = [said if isinstance(said, str) else said[0]["content"] for said in completions]
    return [[0.0, 0.5, 1.0, 0.5][min(len(text.split()), 3)] for text in texts]


def plain(folder, rows, *, adapter=None, rewards=(shape,), callbacks=(), **keys):
    from trl import GRPOConfig, GRPOTrainer

    own = {"seed": derive(SEED, "dropout", 0, 1), "shuffle_dataset": False}
    more = {"reward_funcs": list(rewards), "callbacks": list(callbacks)}
    model = language_model(folder, adapter)
    return plain_trainer(
        GRPOTrainer, GRPOConfig, model, rows, folder, more=more, **GRPO | own | keys
    )


def assert_equal(worker, anchor, trained, trainer):
    """Both set out from the anchor; the plain run has not yet."""
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(trainer.model, worker.layout.unflatten(anchor))
    loss = trainer.train().training_loss
    assert torch.equal(trained.delta, row_of(worker, trainer.model) - anchor)
    assert trained.delta.abs().max() > 1e-3
    assert trained.train_loss == pytest.approx(loss, abs=1e-6)  # of floats logged step by step
    assert trained.figures["reward_std"] > 0


@pytest.mark.filterwarnings(CONV1D)
@pytest.mark.parametrize(
    ("architecture", "format", "beta"),
    [
        ("llama", "prompts", 0.0),
        ("llama", "prompts_messages", 0.1),
        ("gpt2", "prompts", 0.1),
        ("qwen3", "prompts_messages", 0.0),
    ],
)
def test_one_client_round_is_a_plain_trl_run(
    make_worker, tiny_model_folder, small_data, architecture, format, beta
):
    keys = GRPO | {"beta": beta}
    worker = make_worker(architecture, format, task="grpo", train=keys, federation=FEDERATION)
    source, mine = small_data("jsonl", format), worker.data.parts[0].train
    rows = rows_in_order(source, mine, per_round=PER_ROUND)
    anchor = an_anchor(worker) if beta else worker.initial
    trained = worker.trainer.train(anchor, client=0, round_=1)
    assert_equal(worker, anchor, trained, plain(tiny_model_folder(architecture), rows, beta=beta))


@pytest.mark.parametrize(
    ("keys", "per_round"),
    [
        ({"gradient_accumulation_steps": 2}, 16),
        ({"num_iterations": 2, "steps_per_generation": 2}, 4),
        ({"temperature": 0.7, "top_k": 20, "loss_type": "grpo", "scale_rewards": "none"}, 8),
    ],
    ids=["accumulation", "iterations", "sampling"],
)
def test_trls_own_keys_mean_the_same(make_worker, tiny_model_folder, small_data, keys, per_round):
    worker = make_worker(task="grpo", train=GRPO | keys, federation=FEDERATION)
    anchor = an_anchor(worker)
    trained = worker.trainer.train(anchor, client=0, round_=1)
    source, mine = small_data("jsonl", "prompts"), worker.data.parts[0].train
    rows = rows_in_order(source, mine, per_round=per_round)
    assert_equal(worker, anchor, trained, plain(tiny_model_folder("llama"), rows, **keys))


def test_rewards_are_weighed_as_a_plain_run_weighs_them(make_worker, tiny_model_folder, small_data):
    rewards = [{"name": "format", "weight": 2.0}, {"name": "length", "words": 2, "weight": -0.5}]
    worker = make_worker(task="grpo", train=GRPO, federation=FEDERATION, rewards=rewards)
    trained = worker.trainer.train(worker.initial, client=0, round_=1)
    source, mine = small_data("jsonl", "prompts"), worker.data.parts[0].train
    trainer = plain(
        tiny_model_folder("llama"),
        rows_in_order(source, mine, per_round=PER_ROUND),
        rewards=(shape, brief),
        reward_weights=[2.0, -0.5],
    )
    assert_equal(worker, worker.initial, trained, trainer)
    for name in ("format", "length"):
        assert 0 < trained.figures[f"rewards/{name}/mean"] < 1


def test_a_reference_from_a_folder_is_the_adapter_that_a_plain_run_is_handed(
    make_worker, tiny_model_folder, small_data, tmp_path
):
    keys, folder = GRPO | {"beta": 0.5}, tmp_path / "adapter"
    first = make_worker(task="grpo", train=keys, federation=FEDERATION)
    first.save_adapter(an_anchor(first, seed=2), folder)
    worker = make_worker(task="grpo", train=keys, federation=FEDERATION, reference=str(folder))
    anchor = an_anchor(worker)
    trained = worker.trainer.train(anchor, client=0, round_=1)
    assert not torch.equal(trained.delta, first.trainer.train(anchor, client=0, round_=1).delta)
    source, mine = small_data("jsonl", "prompts"), worker.data.parts[0].train
    rows = rows_in_order(source, mine, per_round=PER_ROUND)
    trainer = plain(tiny_model_folder("llama"), rows, adapter=folder, beta=0.5)
    assert_equal(worker, anchor, trained, trainer)


def reseeding():
    """A callback that seeds sampling anew where a round begins, as each client-round does."""
    from transformers import TrainerCallback, set_seed

    class Reseed(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step % STEPS == 0:
                set_seed(derive(SEED, "dropout", 0, state.global_step // STEPS + 1))
                torch.empty((), dtype=torch.int64).random_()  # each round's loader draws once

    return Reseed()


def test_rounds_with_a_kept_optimizer_are_one_plain_run(
    make_worker, tiny_model_folder, small_data, tmp_path
):
    """Measured 3e-8: an answer that came out otherwise would leave 1e-2."""
    from peft import set_peft_model_state_dict

    keys, rounds = GRPO | {"beta": 0.1}, (1, 2, 3)
    federation = FEDERATION | {"num_rounds": 3, "inner_optimizer": "keep"}
    worker = make_worker(task="grpo", train=keys, federation=federation)
    anchor = an_anchor(worker)
    end, done = chain(worker, anchor, rounds, tmp_path)
    source, mine = small_data("jsonl", "prompts"), worker.data.parts[0].train
    rows = rows_in_order(source, mine, per_round=PER_ROUND, rounds=rounds)
    longer = {"max_steps": 3 * STEPS, "logging_steps": STEPS, "beta": 0.1}
    trainer = plain(tiny_model_folder("llama"), rows, callbacks=[reseeding()], **longer)
    set_peft_model_state_dict(trainer.model, worker.layout.unflatten(anchor))
    trainer.train()
    torch.testing.assert_close(end, row_of(worker, trainer.model), rtol=0, atol=1e-6)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    for trained, entry in zip(done, logged, strict=True):
        for name in ("reward", "kl", "entropy", "completions/mean_length"):
            assert trained.figures[name] == pytest.approx(entry[name], rel=1e-4)


@pytest.mark.parametrize(("beta", "clip"), [(0.0, 0.05), (0.1, 0.0)])
def test_a_factor_that_is_fixed_takes_no_gradient(
    make_worker, tiny_model_folder, small_data, beta, clip
):
    """Through the norm by which gradients are clipped, A's would tell.

    A plain run with beta > 0 lets A take one after it has asked the reference; so no clip there.
    """
    from peft import set_peft_model_state_dict

    constant = {"lr_scheduler_type": "constant", "warmup_steps": 0, "max_grad_norm": clip}
    keys, lora = GRPO | constant | {"beta": beta}, {"train": "b_only"}
    worker = make_worker(task="grpo", train=keys, lora=lora, federation=FEDERATION)
    anchor, seen = an_anchor(worker), []

    def note(*_):
        named = worker.model.named_parameters()
        seen.append({name.split(".")[-3] for name, each in named if each.grad is not None})

    hook = register_optimizer_step_pre_hook(note)
    trained = worker.trainer.train(anchor, client=0, round_=1)
    hook.remove()
    assert seen == [{"lora_B"}] * STEPS
    source, mine = small_data("jsonl", "prompts"), worker.data.parts[0].train
    rows = rows_in_order(source, mine, per_round=PER_ROUND)
    trainer = plain(tiny_model_folder("llama"), rows, beta=beta, **constant)
    set_peft_model_state_dict(trainer.model, worker.layout.unflatten(anchor))
    for name, parameter in trainer.model.named_parameters():
        if "lora_A" in name:
            parameter.requires_grad_(False)
    trainer.train()
    moved = worker.layout.unflatten(row_of(worker, trainer.model) - anchor)
    sent = torch.cat([tensor.flatten() for name, tensor in moved.items() if "lora_B" in name])
    assert torch.equal(trained.delta, sent)
