"""The learning rate as one schedule over all rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fedtune.training.plan import Plan

if TYPE_CHECKING:
    from transformers import TrainingArguments

NO_FUNCTION = (
    "lr_scheduler_type: {} depends on what came before; a schedule over all rounds must be a "
    "function of the step, such as linear or cosine"
)


def schedule(
    config: TrainingArguments,
    optimizer: torch.optim.Optimizer,
    plan: Plan,
    first_step: int,
) -> torch.optim.lr_scheduler.LambdaLR:
    """The run's one schedule, from ``first_step`` on.

    Raises:
        ValueError: If it is no function of the step.
    """
    from transformers import get_scheduler

    whole = get_scheduler(
        config.lr_scheduler_type,
        optimizer,
        num_warmup_steps=config.get_warmup_steps(plan.total_steps),
        num_training_steps=plan.total_steps,
        scheduler_specific_kwargs=config.lr_scheduler_kwargs,
    )
    if not isinstance(whole, torch.optim.lr_scheduler.LambdaLR):
        raise ValueError(NO_FUNCTION.format(config.lr_scheduler_type))
    shape = whole.lr_lambdas[0]
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"]
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: shape(first_step + step))
