"""What a plain TRL + PEFT run takes, written out for the tests that compare one with a worker."""

import tempfile

import numpy as np
import torch

from fedtune.seeds import derive

SEED, STEPS, BATCH = 3, 4, 4
KEYS = {
    "learning_rate": 5e-3,
    "per_device_train_batch_size": BATCH,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 2,
    "weight_decay": 0.01,
    "max_grad_norm": 0.5,
    "gradient_checkpointing": False,
}
FEDERATION = {"num_clients": 1, "num_rounds": 1, "local_steps": STEPS, "seed": SEED}
CONV1D = "ignore:fan_in_fan_out is set to False"  # PEFT sets it by itself, and says so


def plain_trainer(
    trainer, config, model, rows, folder, *, task_type="CAUSAL_LM", more=None, **keys
):
    """One of TRL's trainers, as a script would make it: a base, a LoRA config, rows in order.

    With a PEFT model in the base's place, TRL takes a copy of its adapter for the reference.
    """
    from peft import LoraConfig, PeftModel
    from transformers import AutoTokenizer

    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type=task_type)
    args = config(
        **KEYS | {"max_steps": STEPS, "seed": SEED} | keys,
        output_dir=tempfile.gettempdir(),  # nothing is saved there
        use_cpu=True,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
    )
    return trainer(
        model=model,
        args=args,
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=None if isinstance(model, PeftModel) else lora,
        **(more or {}),
    )


def language_model(folder, adapter=None):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return (
        model if adapter is None else PeftModel.from_pretrained(model, adapter, is_trainable=True)
    )


def places_in_order(count, *, rounds=(1,), per_round=STEPS * BATCH):
    """Which of its rows a client's steps see: one shuffle per epoch, by the names in DESIGN."""
    places = []
    for round_ in rounds:
        seen, end = [], round_ * per_round
        for epoch in range(end // count + 1):
            draw = np.random.default_rng(derive(SEED, "order", 0, epoch))
            seen += draw.permutation(count).tolist()
        places += seen[end - per_round : end]
    return places


def rows_in_order(source, mine, *, columns=None, **stretch):
    """The rows themselves, from a file; a client's are those numbered in ``mine``."""
    from datasets import load_dataset

    rows = load_dataset("json", data_files=str(source), split="train")
    chosen = [mine[place] for place in places_in_order(len(mine), **stretch)]
    names = [name for name in rows.column_names if name in (columns or rows.column_names)]
    return rows.select(chosen).select_columns(names)


def row_of(worker, model):
    """A plain model's adapter as a row of the worker's layout."""
    from peft import get_peft_model_state_dict

    return worker.layout.flatten(get_peft_model_state_dict(model))


def an_anchor(worker, *, seed=1):
    """An adapter that changes the model: B is zero in the first one."""
    draw = torch.Generator().manual_seed(seed)
    return worker.initial + 0.05 * torch.randn(worker.layout.size, generator=draw)


def chain(worker, anchor, rounds, folder):
    """Round after round from where the last one ended; the optimizer's state is kept."""
    done = []
    for round_ in rounds:
        done.append(worker.trainer.train(anchor, client=0, round_=round_, state_folder=folder))
        anchor = anchor + done[-1].delta
    return anchor, done
