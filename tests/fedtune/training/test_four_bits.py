"""QLoRA: a base in 4 bits under a float32 adapter, for every task.

Not proven here: CUDA's kernels; on a CPU bitsandbytes has its own.
"""

import importlib.util
import subprocess
import sys

import pytest
import torch

from fedtune.nano import model_folder
from fedtune.recipe import parse_recipe
from fedtune.runs.checks.preflight import find_problems
from fedtune.training.merge import merge_adapter
from fedtune.training.worker import Worker

EXTRA = {
    "sft": {},
    "reward": {},
    "dpo": {},
    "grpo": {
        "rewards": [{"name": "length"}],
        "train": {"num_generations": 4, "max_completion_length": 8, "beta": 0.1},
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model whose widths are multiples of 64, which the CPU kernels of bitsandbytes ask for."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    made = tmp_path_factory.mktemp("wide")
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(made)
    tokenizer.save_pretrained(made)
    return made


def recipe(folder, task, **model):
    raw = EXTRA[task]
    train = {"learning_rate": 5e-3, "per_device_train_batch_size": 8, **raw.get("train", {})}
    return parse_recipe(
        {
            "task": task,
            "model": {"name_or_path": str(folder), "device": "cpu", "load_in_4bit": True, **model},
            "federation": {"num_clients": 2, "num_rounds": 2, "local_steps": 2},
            "aggregator": {"name": "mean"},
            "evaluation": {"max_rows": 16},
            **raw,
            "train": train,
        }
    )


@pytest.mark.parametrize(
    "task",
    ["sft", "grpo", *(pytest.param(each, marks=pytest.mark.slow) for each in ("dpo", "reward"))],
)
def test_a_round_trains_a_float32_adapter_on_packed_weights(folder, task):
    worker = Worker(recipe(folder, task))
    packed = [name for name, each in worker.model.named_parameters() if each.dtype == torch.uint8]
    assert any("mlp.up_proj" in name for name in packed)
    first = worker.trainer.train(worker.initial, client=0, round_=1)
    again = worker.trainer.train(worker.initial, client=0, round_=1)
    assert torch.equal(first.delta, again.delta)
    assert float(first.delta.norm()) > 0
    # bfloat16 holds 8 bits of a number: trained in it, each would equal its own rounding
    local = worker.initial + first.delta
    assert not torch.equal(local, local.bfloat16().float())
    trained = [each for each in worker.model.parameters() if each.requires_grad]
    assert {each.dtype for each in trained} == {torch.float32}


def test_training_lowers_the_loss_and_merging_goes_back_to_float32(folder, tmp_path):
    from transformers import LlamaForCausalLM

    section = recipe(folder, "sft")
    worker = Worker(section)
    row = worker.initial
    before = worker.evaluator.measure(row).loss
    for round_ in (1, 2):
        row = row + worker.trainer.train(row, client=0, round_=round_).delta
    assert worker.evaluator.measure(row).loss < before
    worker.save_adapter(row, tmp_path / "adapter")
    merge_adapter(tmp_path / "adapter", section.model, tmp_path / "merged")
    merged = LlamaForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.dtype == torch.float32


def test_check_says_what_is_to_be_installed(folder, monkeypatch):
    there = importlib.util.find_spec

    def find(name, *rest):
        return None if name == "bitsandbytes" else there(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    problems = find_problems(recipe(folder, "sft"))
    assert any("pip install bitsandbytes" in problem for problem in problems)


@pytest.mark.slow
def test_what_is_imported_on_the_way_says_nothing():
    modules = "fedtune.runs.checks.preflight, fedtune.training.process, trl, peft, bitsandbytes"
    done = subprocess.run(
        [sys.executable, "-c", f"import {modules}"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
