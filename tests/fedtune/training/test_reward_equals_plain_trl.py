"""A client's rounds of reward modelling are a plain TRL run, to the bit; the head is the seed's.

Not proven here: bfloat16, several devices.
"""

import json

import pytest
import torch
from plain_trl import (
    CONV1D,
    FEDERATION,
    KEYS,
    SEED,
    STEPS,
    chain,
    plain_trainer,
    row_of,
    rows_in_order,
)

from fedtune.seeds import derive

PAIR = ("prompt", "chosen", "rejected", "margin")


def plain(folder, rows, **keys):
    """The head is drawn as the base is loaded: by the seed that the worker derives for it."""
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    torch.manual_seed(derive(SEED, "head"))
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, num_labels=1
    )
    keys = {"max_length": 48, "train_sampling_strategy": "sequential"} | keys
    return plain_trainer(
        RewardTrainer, RewardConfig, model, rows, folder, task_type="SEQ_CLS", **keys
    )


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
    worker = make_worker(architecture, format, task="reward", train=KEYS, federation=FEDERATION)
    trained = worker.trainer.train(worker.initial, client=0, round_=1)
    rows = rows_in_order(small_data("jsonl", format), worker.data.parts[0].train, columns=PAIR)
    # TRL draws A from the seed of the config, the worker from the one derived for it.
    trainer = plain(tiny_model_folder(architecture), rows, seed=derive(SEED, "lora"))
    assert torch.equal(row_of(worker, trainer.model), worker.initial)
    loss = trainer.train().training_loss
    assert torch.equal(trained.delta, row_of(worker, trainer.model) - worker.initial)
    assert trained.delta.abs().max() > 1e-3
    assert trained.train_loss == pytest.approx(loss, abs=1e-6)  # of floats logged step by step


@pytest.mark.parametrize(
    "keys",
    [
        {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
        {"center_rewards_coefficient": 0.1, "max_length": 14},  # a third of the pairs fit
    ],
    ids=["accumulation", "centred"],
)
def test_trls_own_keys_mean_the_same(make_worker, tiny_model_folder, small_data, keys):
    from datasets import load_dataset

    worker = make_worker(task="reward", train=KEYS | keys, federation=FEDERATION)
    trained = worker.trainer.train(worker.initial, client=0, round_=1)
    source, mine = small_data("jsonl", "pairs"), worker.data.parts[0].train
    whole = load_dataset("json", data_files=str(source), split="train")
    longest = worker.plan.train["max_length"]
    # A byte a token, and an end: pairs that are longer were never there.
    mine = [i for i in mine if longest > len(whole[i]["prompt"]) + longer_answer(whole[i])]
    rows = rows_in_order(source, mine, columns=PAIR)
    trainer = plain(tiny_model_folder("llama"), rows, seed=derive(SEED, "lora"), **keys)
    trainer.train()
    assert torch.equal(trained.delta, row_of(worker, trainer.model) - worker.initial)


def longer_answer(row):
    return max(len(row["chosen"]), len(row["rejected"]))


def test_a_column_of_margins_is_kept(make_worker, tiny_model_folder, small_data, tmp_path):
    rows = [json.loads(line) for line in small_data("jsonl", "pairs").read_text().splitlines()]
    source = tmp_path / "rows.jsonl"
    source.write_text(
        "\n".join(json.dumps({**row, "margin": i % 3 / 2}) for i, row in enumerate(rows))
    )
    data = {"source": str(source)}
    with_margins = make_worker(task="reward", train=KEYS, federation=FEDERATION, data=data)
    without = make_worker(task="reward", train=KEYS, federation=FEDERATION)
    trained = with_margins.trainer.train(with_margins.initial, client=0, round_=1)
    assert not torch.equal(
        trained.delta, without.trainer.train(without.initial, client=0, round_=1).delta
    )
    chosen = rows_in_order(source, with_margins.data.parts[0].train, columns=PAIR)
    trainer = plain(tiny_model_folder("llama"), chosen, seed=derive(SEED, "lora"))
    trainer.train()
    assert torch.equal(trained.delta, row_of(without, trainer.model) - without.initial)


def test_rounds_with_a_kept_optimizer_are_one_plain_run(
    make_worker, tiny_model_folder, small_data, tmp_path
):
    """Between the rounds anchor + (local - anchor) is rounded; measured 1.9e-8."""
    keys = {"num_rounds": 3, "inner_optimizer": "keep"}
    worker = make_worker(task="reward", train=KEYS, federation=FEDERATION | keys)
    rounds = (1, 2, 3)
    end, done = chain(worker, worker.initial, rounds, tmp_path)
    mine = worker.data.parts[0].train
    rows = rows_in_order(small_data("jsonl", "pairs"), mine, columns=PAIR, rounds=rounds)
    longer = {"max_steps": 3 * STEPS, "logging_steps": STEPS}
    trainer = plain(tiny_model_folder("llama"), rows, seed=derive(SEED, "lora"), **longer)
    trainer.train()
    torch.testing.assert_close(end, row_of(worker, trainer.model), rtol=0, atol=1e-6)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    for trained, entry in zip(done, logged, strict=True):
        assert trained.train_loss == pytest.approx(entry["loss"], abs=1e-5)
        for name in ("accuracy", "margin", "mean_reward"):
            assert trained.figures[name] == pytest.approx(entry[name], abs=1e-5)


def test_a_factor_that_is_fixed_takes_no_gradient(make_worker, tiny_model_folder, small_data):
    from peft import set_peft_model_state_dict

    constant = {"lr_scheduler_type": "constant", "warmup_steps": 0}
    worker = make_worker(
        task="reward", train=KEYS | constant, lora={"train": "b_only"}, federation=FEDERATION
    )
    trained = worker.trainer.train(worker.initial, client=0, round_=1)
    rows = rows_in_order(small_data("jsonl", "pairs"), worker.data.parts[0].train, columns=PAIR)
    trainer = plain(tiny_model_folder("llama"), rows, seed=derive(SEED, "lora"), **constant)
    set_peft_model_state_dict(trainer.model, worker.layout.unflatten(worker.initial))
    for name, parameter in trainer.model.named_parameters():
        if "lora_A" in name:
            parameter.requires_grad_(False)
    trainer.train()
    moved = worker.layout.unflatten(row_of(worker, trainer.model) - worker.initial)
    sent = torch.cat([tensor.flatten() for name, tensor in moved.items() if "lora_A" not in name])
    assert torch.equal(trained.delta, sent)
