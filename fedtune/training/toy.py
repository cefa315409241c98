"""A model of a few weights with a true tokenizer: what TRL's trainers are tried on."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from fedtune.adapters import lora
from fedtune.training.plan import Plan
from fedtune.training.tasks import TASKS, Learner
from fedtune.training.tasks.task import Priced

_WIDTH = 8
_UNBOUNDED = 2**20  # positions of a model that names no bound


def toy_learner(task: str, plan: Plan, tokenizer: Any, *, like: Any = None) -> Learner:  # noqa: ANN401
    """A learner of a task that takes a step in milliseconds.

    Args:
        task: Its name.
        plan: Of the recipe, or of the keys to be tried.
        tokenizer: The recipe's.
        like: The configuration of the model that it stands for: rows may be as long.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    chosen = TASKS[task]
    places = getattr(like.get_text_config(), "max_position_embeddings", None) if like else None
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=_WIDTH,
        intermediate_size=_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=places or _UNBOUNDED,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=1,
        use_cache=False,
    )
    kind = LlamaForCausalLM if chosen.peft_type == "CAUSAL_LM" else LlamaForSequenceClassification
    adapter = LoraConfig(r=1, target_modules="all-linear", task_type=chosen.peft_type)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = get_peft_model(kind(config), adapter)
    learner = Learner(model, tokenizer, plan, reference=lora.read(model))
    reward = Priced("words", 1.0, lambda prompt, completion, row: float(len(completion) % 2))
    return dataclasses.replace(learner, rewards=[reward])
