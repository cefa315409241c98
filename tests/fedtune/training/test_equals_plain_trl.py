"""One client-round is a plain TRL + PEFT run, to the bit; what such a run takes is written out.

Not proven here: bfloat16, several devices, an optimizer with a state of its own randomness.
"""

import numpy as np
import pytest
import torch

from fedtune.adapters.ranks import cut
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


def plain_trainer(
    folder, rows, tmp_path, *, seed, lora_dropout=0.0, r=4, lora_alpha=8, max_steps=STEPS, **keys
):
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    lora = LoraConfig(
        r=r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    config = SFTConfig(
        **KEYS | keys,
        output_dir=str(tmp_path),
        max_steps=max_steps,
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


def in_order(rows, mine, *, round_=1, order=0):
    """The client's rows as its steps see them: one shuffle per epoch, by names in DESIGN."""
    seen, end = [], round_ * STEPS * BATCH
    for epoch in range(end // len(mine) + 1):
        draw = np.random.default_rng(derive(SEED, "order", order, epoch))
        seen += [mine[i] for i in draw.permutation(len(mine))]
    trained = [
        name for name in rows.column_names if name in ("prompt", "completion", "text", "messages")
    ]
    return rows.select(seen[end - STEPS * BATCH : end]).select_columns(trained)


def row_of(worker, model):
    from peft import get_peft_model_state_dict

    return worker.layout.flatten(get_peft_model_state_dict(model))


@pytest.mark.filterwarnings(CONV1D)
@pytest.mark.parametrize(
    ("architecture", "format"),
    [("llama", "prompt_completion"), ("qwen3", "messages"), ("gpt2", "text"), ("gpt2", "messages")],
)
def test_one_client_round_is_a_plain_trl_run(
    make_worker, tiny_model_folder, small_data, tmp_path, architecture, format
):
    from datasets import load_dataset

    worker = make_worker(architecture, format, train=KEYS, federation=ONE_ROUND)
    trained = worker.trainer.train(worker.initial, client=0, round_=1)

    rows = load_dataset("json", data_files=str(small_data("jsonl", format)), split="train")
    chosen = in_order(rows, worker.data.parts[0].train)
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
    from datasets import load_dataset

    worker = make_worker(train=KEYS | keys, federation=ONE_ROUND)
    trained = worker.trainer.train(worker.initial, client=0, round_=1)
    rows = load_dataset("json", data_files=str(small_data("jsonl")), split="train")
    chosen = in_order(rows, worker.data.parts[0].train)
    folder = tiny_model_folder("llama")
    trainer = plain_trainer(folder, chosen, tmp_path, seed=derive(SEED, "lora"), **keys)
    trainer.train()
    assert torch.equal(trained.delta, row_of(worker, trainer.model) - worker.initial)


def test_dropout_falls_alike(make_worker, tiny_model_folder, small_data, tmp_path):
    from datasets import load_dataset
    from peft import set_peft_model_state_dict

    lora = {"lora_dropout": 0.3}
    worker = make_worker(train=KEYS, lora=lora, federation=ONE_ROUND)
    trained = worker.trainer.train(worker.initial, client=0, round_=1)
    rows = load_dataset("json", data_files=str(small_data("jsonl")), split="train")
    chosen = in_order(rows, worker.data.parts[0].train)
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
    from datasets import load_dataset
    from peft import set_peft_model_state_dict

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
    trained = worker.trainer.train(anchor, client=0, round_=round_)

    rows = load_dataset("json", data_files=str(small_data("jsonl")), split="train")
    chosen = in_order(rows, worker.data.parts[0].train, round_=round_)
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


def of_rank_one(make_worker, *, lora=None, **federation):
    """A worker of two clients on the same rows, of ranks 4 and 1; an anchor of rank 1, B not 0."""
    worker = make_worker(
        train=KEYS,
        lora={"client_ranks": [4, 1], **(lora or {})},
        data={"partition": {"by": "replicate"}},
        aggregator={"geometry": "product"},
        federation=ONE_ROUND | {"num_clients": 2} | federation,
    )
    draw = torch.Generator().manual_seed(1)
    own = worker.layout_of(1)
    anchor = cut(worker.initial, worker.layout, own)
    return worker, own, anchor + 0.1 * torch.randn(own.size, generator=draw)


def rows_of_round(worker, small_data, round_):
    from datasets import load_dataset

    rows = load_dataset("json", data_files=str(small_data("jsonl")), split="train")
    return in_order(rows, worker.data.parts[1].train, round_=round_, order="shared")


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_round_of_a_lower_rank_is_a_plain_run_of_that_rank(
    make_worker, tiny_model_folder, small_data, tmp_path, dropout
):
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    # Rank 1 on a model of rank 4, at the same scale: alpha / r = 8 / 4 = 2 / 1. With weight decay
    # and clipping by the norm, through both of which the padding could tell.
    worker, own, anchor = of_rank_one(make_worker, lora={"lora_dropout": dropout})
    trained = worker.trainer.train(anchor, client=1, round_=1)
    trainer = plain_trainer(
        tiny_model_folder("llama"),
        rows_of_round(worker, small_data, 1),
        tmp_path,
        seed=derive(SEED, "dropout", "shared", 1),
        lora_dropout=dropout,
        r=1,
        lora_alpha=2,
    )
    set_peft_model_state_dict(trainer.model, own.unflatten(anchor))
    loss = trainer.train().training_loss
    moved = own.flatten(get_peft_model_state_dict(trainer.model)) - anchor
    assert trained.delta.shape == (own.size,)
    assert moved.abs().max() > 1e-2
    torch.testing.assert_close(trained.delta, moved, rtol=0, atol=1e-5)
    assert trained.train_loss == pytest.approx(loss, abs=1e-5)


def test_a_lower_rank_keeps_its_optimizer_as_a_plain_run_of_that_rank_does(
    make_worker, tiny_model_folder, small_data, tmp_path
):
    from datasets import concatenate_datasets
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    # Two rounds from where the first ended, the moments kept, are one plain run of twice the steps.
    worker, own, anchor = of_rank_one(make_worker, num_rounds=2, inner_optimizer="keep")
    local = anchor
    for round_ in (1, 2):
        options = {"client": 1, "round_": round_, "state_folder": tmp_path / "state"}
        local = local + worker.trainer.train(local, **options).delta
    chosen = concatenate_datasets([rows_of_round(worker, small_data, k) for k in (1, 2)])
    folder, twice = tiny_model_folder("llama"), 2 * STEPS
    trainer = plain_trainer(folder, chosen, tmp_path, seed=SEED, r=1, lora_alpha=2, max_steps=twice)
    set_peft_model_state_dict(trainer.model, own.unflatten(anchor))
    trainer.train()
    plain = own.flatten(get_peft_model_state_dict(trainer.model))
    torch.testing.assert_close(local, plain, rtol=0, atol=1e-5)
    assert (plain - anchor).abs().max() > 1e-2


def test_nano_on_python_docs_too(make_worker, tmp_path):
    """No row is cut so short that its completion is lost: such rows are not drawn from at all."""
    longer = {"max_length": 512}
    worker = make_worker(
        model={"name_or_path": "nano"},
        data={"source": "python-docs", "max_rows": 100},
        train=KEYS | longer,
        federation=ONE_ROUND,
    )
    trained = worker.trainer.train(worker.initial, client=0, round_=1)
    assert worker.data.rows[0] in python_docs.rows()
    chosen = in_order(worker.data.rows, worker.data.parts[0].train)
    trainer = plain_trainer(model_folder(), chosen, tmp_path, seed=derive(SEED, "lora"), **longer)
    trainer.train()
    assert torch.equal(trained.delta, row_of(worker, trainer.model) - worker.initial)
