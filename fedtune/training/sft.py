"""Supervised fine-tuning through TRL's SFTTrainer."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from datasets import Dataset
from transformers import get_scheduler
from trl import SFTConfig, SFTTrainer

from fedtune.training.plan import Plan

TASK_TYPE = "CAUSAL_LM"
OptimizerState = dict[int, dict[str, torch.Tensor]]


_NO_FUNCTION = (
    "lr_scheduler_type: {} depends on what came before; a schedule over all rounds must be a "
    "function of the step, such as linear or cosine"
)


def train_keys() -> list[str]:
    """The keys that TRL's SFTConfig knows."""
    return [field.name for field in dataclasses.fields(SFTConfig) if field.init]


def check_values(plan: Plan) -> None:
    """Have TRL look at the values of the recipe's keys.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If TRL or the schedule over all rounds cannot do with one.
    """
    if plan.train.get("lr_scheduler_type") == "reduce_lr_on_plateau":  # else TRL asks for more
        raise ValueError(_NO_FUNCTION.format("reduce_lr_on_plateau"))
    for key in ("per_device_train_batch_size", "gradient_accumulation_steps", "max_length"):
        value = plan.train.get(key)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{key} must be at least 1: got {value!r}")
    config = _config(plan, steps=1, seed=0)
    parameter = torch.nn.Parameter(torch.zeros(1))
    learning_rate = float(config.learning_rate)
    _schedule(config, torch.optim.SGD([parameter], lr=learning_rate), plan, 0)


def prepare(rows: Dataset, model: Any, tokenizer: Any, plan: Plan) -> Dataset:  # noqa: ANN401
    """Tokenise rows as TRL does: chat template, eos, labels, truncation; once per client.

    Returns:
        Columns ``input_ids`` and ``labels``; rows that truncation leaves without a label are gone.
    """
    with _untouched(model):
        config = _config(plan, steps=1, seed=0, tokenised=False)
        trainer = SFTTrainer(
            model=model, args=config, train_dataset=rows, processing_class=tokenizer
        )
        prepared: Dataset = trainer.train_dataset
    return prepared.select_columns(["input_ids", "labels"])


def run_steps(
    rows: Dataset,
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    plan: Plan,
    *,
    first_step: int,
    seed: int,
    optimizer_state: OptimizerState | None = None,
) -> tuple[float, OptimizerState]:
    """Run one round's local steps on the adapter, in place.

    Args:
        rows: Prepared rows in the order in which they are to be seen.
        model: A PEFT model that holds the anchor.
        tokenizer: The base's.
        plan: What the recipe says of training.
        first_step: Steps that came before, of the run's one learning-rate schedule.
        seed: Seeds dropout.
        optimizer_state: State of an earlier round to go on from; None starts afresh.

    Returns:
        The mean training loss, and the optimizer's state.
    """
    with _untouched(model):
        config = _config(plan, steps=plan.local_steps, seed=seed)
        trainer = SFTTrainer(
            model=model, args=config, train_dataset=rows, processing_class=tokenizer
        )
        optimizer = trainer.create_optimizer()
        if optimizer_state is not None:  # moments alone: the rates are the schedule's
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": optimizer_state, "param_groups": groups})
        trainer.lr_scheduler = _schedule(config, optimizer, plan, first_step)
        with contextlib.redirect_stdout(io.StringIO()):  # the trainer prints its metrics
            loss = trainer.train().training_loss
        trainer.end()
    return float(loss), optimizer.state_dict()["state"]


def _schedule(
    config: SFTConfig,
    optimizer: torch.optim.Optimizer,
    plan: Plan,
    first_step: int,
) -> torch.optim.lr_scheduler.LambdaLR:
    """The run's one schedule, from ``first_step`` on."""
    whole = get_scheduler(
        config.lr_scheduler_type,
        optimizer,
        num_warmup_steps=config.get_warmup_steps(plan.total_steps),
        num_training_steps=plan.total_steps,
        scheduler_specific_kwargs=config.lr_scheduler_kwargs,
    )
    if not isinstance(whole, torch.optim.lr_scheduler.LambdaLR):
        raise ValueError(_NO_FUNCTION.format(config.lr_scheduler_type))
    shape = whole.lr_lambdas[0]
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"]
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: shape(first_step + step))


def _config(
    plan: Plan,
    *,
    steps: int,
    seed: int,
    tokenised: bool = True,
) -> SFTConfig:
    config = SFTConfig(
        **plan.train,
        **plan.placement,
        max_steps=steps,
        seed=seed,
        data_seed=seed,
        train_sampling_strategy="sequential",
        dataset_kwargs={"skip_prepare_dataset": tokenised},
    )
    # A client trains on one device. With two or more GPUs in sight, transformers would wrap the
    # model in DataParallel and multiply the batch by their number, which TRL refuses.
    if config.n_gpu > 1:
        config._n_gpu = 1
    return config


@contextlib.contextmanager
def _untouched(model: Any) -> Iterator[None]:  # noqa: ANN401
    """Undo what a trainer leaves on the model that all trainers share.

    Each SFTTrainer wraps the base's ``forward`` once more, so that calls would nest deeper with
    every round until Python's recursion limit.
    """
    inner = [model, model.get_base_model()]
    before = [{key: part.__dict__.get(key) for key in _WRAPPED} for part in inner]
    try:
        with warnings.catch_warnings():
            # Transformers renamed gradient to activation checkpointing; TRL keeps the old name.
            warnings.filterwarnings("ignore", ".*gradient_checkpointing.*", FutureWarning)
            yield
    finally:
        for part, saved in zip(inner, before, strict=True):
            for key, value in saved.items():
                if value is None:
                    part.__dict__.pop(key, None)
                else:
                    part.__dict__[key] = value


_WRAPPED = ("forward", "_original_forward")
