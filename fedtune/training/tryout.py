"""One step of TRL's trainer on a model of a few weights: what no reading of keys would find."""

from __future__ import annotations

import dataclasses
import json
import warnings
from functools import lru_cache
from typing import Any

import torch

from fedtune import nano
from fedtune.adapters import lora
from fedtune.training.plan import Plan
from fedtune.training.tasks import TASKS, Learner
from fedtune.training.tasks.running import ready, run_steps
from fedtune.training.tasks.task import Priced, Task

_WORDS = {"prompt": "Say", "completion": " one two", "chosen": " one", "rejected": " two"}
# What hangs on the machine and not on the values, and what would make a toy of it slow.
_LEFT_OUT = {
    *("optim", "optim_args", "use_liger_kernel", "use_vllm", "torch_compile"),
    *("max_length", "gradient_checkpointing", "activation_checkpointing"),
}
_SHORT = 4  # tokens of an answer


def check_step(task: str, plan: Plan) -> None:
    """Let TRL take one step under the recipe's keys; each set of keys is tried once.

    TRL looks at some values when they are used, such as the name of a loss: without this the
    first round would find them.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If TRL has no use for one.
    """
    keys = {key: value for key, value in plan.train.items() if key not in _LEFT_OUT}
    if problem := _problem(task, json.dumps(keys, sort_keys=True, default=str)):
        raise ValueError(problem)


@lru_cache(maxsize=64)
def _problem(task: str, keys: str) -> str:
    import datasets

    chosen, train = TASKS[task], json.loads(keys) | {"gradient_checkpointing": False}
    if task == "grpo":
        train["max_completion_length"] = _SHORT
    plan = Plan(train, 1, 1, torch.device("cpu"), torch.float32)
    datasets.disable_progress_bars()
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        learner = _toy(chosen, plan)
        columns = {"completion"} if task == "sft" else {"chosen", "rejected"}
        asked = {"prompt", *(columns if task != "grpo" else ())}
        row = {name: _WORDS[name] for name in asked}
        rows = datasets.Dataset.from_list([row] * chosen.rows_per_round(plan))
        try:
            run_steps(chosen, ready(chosen, rows, learner), learner, first_step=0, seed=0)
        except (TypeError, ValueError) as error:
            return str(error)
    return ""


def _toy(task: Task, plan: Plan) -> Learner:
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoTokenizer,
        LlamaConfig,
        LlamaForCausalLM,
        LlamaForSequenceClassification,
    )

    tokenizer: Any = AutoTokenizer.from_pretrained(nano.model_folder())
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        num_attention_heads=1,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=1,
        use_cache=False,
        **sizes,
    )
    kind = LlamaForCausalLM if task.peft_type == "CAUSAL_LM" else LlamaForSequenceClassification
    adapter = LoraConfig(r=1, target_modules="all-linear", task_type=task.peft_type)
    model = get_peft_model(kind(config), adapter)
    learner = Learner(model, tokenizer, plan, reference=lora.read(model))
    reward = Priced("words", 1.0, lambda prompt, completion, row: float(len(completion) % 2))
    return dataclasses.replace(learner, rewards=[reward])
