"""A client's rounds of DPO are a plain TRL run on the base, whose adapter is off for the reference.

To the bit where TRL too asks the reference once for all, in the same batches. Where it asks at each
step, other rows stand in a batch, other paddings and sums are multiplied, and Adam may divide by
next to nothing: measured, 7e-7 at most on deltas of 1e-2.

Not proven here: bfloat16, several devices.
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
    places_in_order,
    plain_trainer,
    row_of,
    rows_in_order,
)

from fedtune.seeds import derive

PAIR = ("prompt", "chosen", "rejected")
TOLERANCE = 5e-6


def plain(folder, rows, *, adapter=None, **keys):
    from trl import DPOConfig, DPOTrainer

    model = language_model(folder, adapter)
    keys = {"max_length": 48, "train_sampling_strategy": "sequential"} | keys
    return plain_trainer(DPOTrainer, DPOConfig, model, rows, folder, **keys)


def assert_equal(worker, anchor, trained, trainer):
    """Both set out from the anchor; the plain run has not yet."""
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(trainer.model, worker.layout.unflatten(anchor))
    loss = trainer.train().training_loss
    moved = row_of(worker, trainer.model) - anchor
    assert moved.abs().max() > 1e-3
    torch.testing.assert_close(trained.delta, moved, rtol=0, atol=TOLERANCE)
    assert trained.train_loss == pytest.approx(loss, abs=TOLERANCE)


@pytest.mark.filterwarnings(CONV1D)
@pytest.mark.parametrize(
    ("architecture", "format"),
    [
        ("llama", "pairs"),
        ("gpt2", "pairs_implicit"),
        ("qwen3", "pairs_messages"),
        ("llama", "pairs_messages_implicit"),
    ],
)
def test_one_client_round_is_a_plain_trl_run(
    make_worker, tiny_model_folder, small_data, architecture, format
):
    worker = make_worker(architecture, format, task="dpo", train=KEYS, federation=FEDERATION)
    trained = worker.trainer.train(worker.initial, client=0, round_=1)
    rows = rows_in_order(small_data("jsonl", format), worker.data.parts[0].train, columns=PAIR)
    # TRL draws A from the seed of the config, the worker from the one derived for it.
    trainer = plain(tiny_model_folder(architecture), rows, seed=derive(SEED, "lora"))
    assert torch.equal(row_of(worker, trainer.model), worker.initial)
    assert_equal(worker, worker.initial, trained, trainer)


@pytest.mark.filterwarnings(CONV1D)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_to_the_bit_where_both_ask_the_reference_once(
    make_worker, tiny_model_folder, small_data, architecture
):
    """The same batches, too: a row of another padding has another last bit on some kernels."""
    from datasets import load_dataset
    from peft import set_peft_model_state_dict

    worker = make_worker(architecture, task="dpo", train=KEYS, federation=FEDERATION)
    anchor, mine = an_anchor(worker), worker.data.parts[0].train
    trained = worker.trainer.train(anchor, client=0, round_=1)
    rows = load_dataset("json", data_files=str(small_data("jsonl", "pairs")), split="train")
    rows = rows.select(mine).select_columns(PAIR)
    # The worker asks from the shortest pair to the longest; a byte is a token.
    lengths = [sum(len(row[name]) for name in PAIR) for row in rows]
    order = sorted(range(len(rows)), key=lambda place: lengths[place])
    once = {"precompute_ref_log_probs": True}
    trainer = plain(tiny_model_folder(architecture), rows.select(order), **once)
    seen = [order.index(place) for place in places_in_order(len(rows))]
    trainer.train_dataset = trainer.train_dataset.select(seen)
    set_peft_model_state_dict(trainer.model, worker.layout.unflatten(anchor))
    trainer.train()
    assert torch.equal(trained.delta, row_of(worker, trainer.model) - anchor)


@pytest.mark.parametrize(
    "keys",
    [
        {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
        {"loss_type": ["ipo", "sft"], "loss_weights": [1.0, 0.3], "beta": 0.3},
        {"ld_alpha": 0.5, "max_length": None},
        {"max_length": 14},  # answers are cut short
    ],
    ids=["accumulation", "losses", "ld_alpha", "truncation"],
)
def test_from_an_adapter_that_is_not_the_reference_too(
    make_worker, tiny_model_folder, small_data, keys
):
    worker = make_worker(task="dpo", train=KEYS | keys, federation=FEDERATION)
    anchor = an_anchor(worker)
    trained = worker.trainer.train(anchor, client=0, round_=1)
    rows = rows_in_order(small_data("jsonl", "pairs"), worker.data.parts[0].train, columns=PAIR)
    assert_equal(worker, anchor, trained, plain(tiny_model_folder("llama"), rows, **keys))


def test_a_reference_from_a_folder_is_the_adapter_that_a_plain_run_is_handed(
    make_worker, tiny_model_folder, small_data, tmp_path
):
    first = make_worker(task="dpo", train=KEYS, federation=FEDERATION)
    first.save_adapter(an_anchor(first, seed=2), tmp_path / "adapter")
    worker = make_worker(
        task="dpo", train=KEYS, federation=FEDERATION, reference=str(tmp_path / "adapter")
    )
    anchor = an_anchor(worker)
    trained = worker.trainer.train(anchor, client=0, round_=1)
    assert not torch.equal(trained.delta, first.trainer.train(anchor, client=0, round_=1).delta)
    rows = rows_in_order(small_data("jsonl", "pairs"), worker.data.parts[0].train, columns=PAIR)
    trainer = plain(tiny_model_folder("llama"), rows, adapter=tmp_path / "adapter")
    assert_equal(worker, anchor, trained, trainer)


def test_rounds_with_a_kept_optimizer_are_one_plain_run(
    make_worker, tiny_model_folder, small_data, tmp_path
):
    """Margins and all: TRL handed the anchor anew would begin each round at a margin of 0."""
    keys = {"num_rounds": 3, "inner_optimizer": "keep"}
    worker = make_worker(task="dpo", train=KEYS, federation=FEDERATION | keys)
    rounds = (1, 2, 3)
    end, done = chain(worker, worker.initial, rounds, tmp_path)
    mine = worker.data.parts[0].train
    rows = rows_in_order(small_data("jsonl", "pairs"), mine, columns=PAIR, rounds=rounds)
    longer = {"max_steps": 3 * STEPS, "logging_steps": STEPS}
    trainer = plain(tiny_model_folder("llama"), rows, seed=derive(SEED, "lora"), **longer)
    trainer.train()
    torch.testing.assert_close(end, row_of(worker, trainer.model), rtol=0, atol=TOLERANCE)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    for trained, entry in zip(done, logged, strict=True):
        assert trained.train_loss == pytest.approx(entry["loss"], abs=1e-5)
        for name in ("rewards/margins", "rewards/chosen", "logps/rejected", "rewards/accuracies"):
            assert trained.figures[name] == pytest.approx(entry[name], abs=1e-5)


def test_a_factor_that_is_fixed_takes_no_gradient(make_worker, tiny_model_folder, small_data):
    from peft import set_peft_model_state_dict

    constant = {"lr_scheduler_type": "constant", "warmup_steps": 0}
    worker = make_worker(
        task="dpo", train=KEYS | constant, lora={"train": "b_only"}, federation=FEDERATION
    )
    anchor = an_anchor(worker)
    trained = worker.trainer.train(anchor, client=0, round_=1)
    rows = rows_in_order(small_data("jsonl", "pairs"), worker.data.parts[0].train, columns=PAIR)
    trainer = plain(tiny_model_folder("llama"), rows, **constant)
    set_peft_model_state_dict(trainer.model, worker.layout.unflatten(anchor))
    for name, parameter in trainer.model.named_parameters():
        if "lora_A" in name:
            parameter.requires_grad_(False)
    trainer.train()
    moved = worker.layout.unflatten(row_of(worker, trainer.model) - anchor)
    sent = torch.cat([tensor.flatten() for name, tensor in moved.items() if "lora_B" in name])
    torch.testing.assert_close(trained.delta, sent, rtol=0, atol=TOLERANCE)
