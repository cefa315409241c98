"""One client-round is a plain TRL + PEFT run, to the bit; what such a run takes is written out.

Not proven here: bfloat16, several devices, an optimizer with a state of its own randomness.
"""

import numpy as np
import pytest
import torch
from datasets import load_dataset
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from fedtune.nano import model_folder, python_docs
from fedtune.seeds import derive

SEED, STEPS, BATCH = 3, 5, 4
KEYS = {
    "learning_rate": 5e-3,
    "per_device_train_batch_size": BATCH,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 2,
    "weight_decay": 0.01,
    "max_grad_norm": 0.5,
    "gradient_checkpointing": False,
    "max_length": 48,
}
ONE_ROUND = {"num_clients": 1, "num_rounds": 1, "local_steps": STEPS, "seed": SEED}
FIXED = [("b_only", 1, "A"), ("b_only", 2, "A"), ("alternate", 1, "A"), ("alternate", 2, "B")]
CONV1D = "ignore:fan_in_fan_out is set to False"  # PEFT sets it by itself, and says so


def plain_trainer(folder, rows, tmp_path, *, seed, lora_dropout=0.0, **keys):
    lora = LoraConfig(
        r=4,
        lora_alpha=8,
        lora_dropout=lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    config = SFTConfig(
        **KEYS | keys,
        output_dir=str(tmp_path),
        max_steps=STEPS,
        seed=seed,
        use_cpu=True,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
        train_sampling_strategy="sequential",
    )
    return SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(folder),
        train_dataset=rows,
        peft_config=lora,
        args=config,
    )


def in_order(rows, mine, *, round_=1):
    """The client's rows as its steps see them: one shuffle per epoch, by names in DESIGN."""
    order, end = [], round_ * STEPS * BATCH
    for epoch in range(end // len(mine) + 1):
        draw = np.random.default_rng(derive(SEED, "order", 0, epoch))
        order += [mine[i] for i in draw.permutation(len(mine))]
    trained = [
        name for name in rows.column_names if name in ("prompt", "completion", "text", "messages")
    ]
    return rows.select(order[end - STEPS * BATCH : end]).select_columns(trained)


def row_of(worker, model):
    return worker.layout.flatten(get_peft_model_state_dict(model))


@pytest.mark.filterwarnings(CONV1D)
@pytest.mark.parametrize(
    ("architecture", "format"),
    [("llama", "prompt_completion"), ("qwen3", "messages"), ("gpt2", "text"), ("gpt2", "messages")],
)
def test_one_client_round_is_a_plain_trl_run(
    make_worker, tiny_model_folder, small_data, tmp_path, architecture, format
):
    worker = make_worker(architecture, format, train=KEYS, federation=ONE_ROUND)
    trained = worker.train(worker.initial, client=0, round_=1)

    rows = load_dataset("json", data_files=str(small_data("jsonl", format)), split="train")
    chosen = in_order(rows, worker.parts[0].train)
    # TRL draws A from the seed of the config, the worker from the one derived for it.
    seed = derive(SEED, "lora")
    trainer = plain_trainer(tiny_model_folder(architecture), chosen, tmp_path, seed=seed)
    assert torch.equal(row_of(worker, trainer.model), worker.initial)
    loss = trainer.train().training_loss
    local = row_of(worker, trainer.model)

    assert torch.equal(trained.delta, local - worker.initial)
    assert trained.delta.abs().max() > 1e-3
    assert trained.train_loss == loss
    # With outer fedavg the anchor becomes anchor + delta: rounded once more, so not to the bit.
    torch.testing.assert_close(worker.initial + trained.delta, local, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "keys",
    [
        {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
        {"optim": "sgd", "lr_scheduler_type": "linear", "warmup_steps": 0.4},
    ],
    ids=["accumulation", "sgd"],
)
def test_trls_own_keys_mean_the_same(make_worker, tiny_model_folder, small_data, tmp_path, keys):
    worker = make_worker(train=KEYS | keys, federation=ONE_ROUND)
    trained = worker.train(worker.initial, client=0, round_=1)
    rows = load_dataset("json", data_files=str(small_data("jsonl")), split="train")
    chosen = in_order(rows, worker.parts[0].train)
    folder = tiny_model_folder("llama")
    trainer = plain_trainer(folder, chosen, tmp_path, seed=derive(SEED, "lora"), **keys)
    trainer.train()
    assert torch.equal(trained.delta, row_of(worker, trainer.model) - worker.initial)


def test_dropout_falls_alike(make_worker, tiny_model_folder, small_data, tmp_path):
    lora = {"lora_dropout": 0.3}
    worker = make_worker(train=KEYS, lora=lora, federation=ONE_ROUND)
    trained = worker.train(worker.initial, client=0, round_=1)
    rows = load_dataset("json", data_files=str(small_data("jsonl")), split="train")
    chosen = in_order(rows, worker.parts[0].train)
    trainer = plain_trainer(
        tiny_model_folder("llama"),
        chosen,
        tmp_path,
        seed=derive(SEED, "dropout", 0, 1),
        **lora,
    )
    set_peft_model_state_dict(trainer.model, worker.layout.unflatten(worker.initial))
    trainer.train()
    assert torch.equal(trained.delta, row_of(worker, trainer.model) - worker.initial)


@pytest.mark.parametrize(("train", "round_", "fixed"), FIXED, ids=lambda each: str(each))
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.filterwarnings(CONV1D)
def test_a_round_of_one_factor_is_a_plain_run_with_the_other_fixed(
    make_worker, tiny_model_folder, small_data, tmp_path, architecture, train, round_, fixed
):
    # With weight decay and clipping by the norm, through both of which a fixed factor could tell.
    constant = {"lr_scheduler_type": "constant", "warmup_steps": 0}
    worker = make_worker(
        architecture,
        train=KEYS | constant,
        lora={"train": train},
        federation=ONE_ROUND | {"num_rounds": 2},
    )
    draw = torch.Generator().manual_seed(1)  # B = 0 leaves A without a gradient
    anchor = worker.initial + 0.1 * torch.randn(worker.layout.size, generator=draw)
    trained = worker.train(anchor, client=0, round_=round_)

    rows = load_dataset("json", data_files=str(small_data("jsonl")), split="train")
    chosen = in_order(rows, worker.parts[0].train, round_=round_)
    folder = tiny_model_folder(architecture)
    trainer = plain_trainer(folder, chosen, tmp_path, seed=derive(SEED, "lora"), **constant)
    set_peft_model_state_dict(trainer.model, worker.layout.unflatten(anchor))
    for name, parameter in trainer.model.named_parameters():
        if f"lora_{fixed}" in name:
            parameter.requires_grad_(False)
    loss = trainer.train().training_loss

    moved = worker.layout.unflatten(row_of(worker, trainer.model) - anchor)
    assert all(tensor.any() != (f"lora_{fixed}" in name) for name, tensor in moved.items())
    sent = [tensor.flatten() for name, tensor in moved.items() if f"lora_{fixed}" not in name]
    assert torch.equal(trained.delta, torch.cat(sent))
    assert trained.train_loss == loss


def test_nano_on_python_docs_too(make_worker, tmp_path):
    """No row is cut so short that its completion is lost: such rows are not drawn from at all."""
    longer = {"max_length": 512}
    worker = make_worker(
        model={"name_or_path": "nano"},
        data={"source": "python-docs", "max_rows": 100},
        train=KEYS | longer,
        federation=ONE_ROUND,
    )
    trained = worker.train(worker.initial, client=0, round_=1)
    assert worker.rows[0] in python_docs.rows()
    chosen = in_order(worker.rows, worker.parts[0].train)
    trainer = plain_trainer(model_folder(), chosen, tmp_path, seed=derive(SEED, "lora"), **longer)
    trainer.train()
    assert torch.equal(trained.delta, row_of(worker, trainer.model) - worker.initial)
