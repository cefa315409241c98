"""What all tasks share: TRL's config from a plan, one schedule over all rounds, a clean model."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch.utils.data import DataLoader

from fedtune.training.labelled import labelled_alone
from fedtune.training.plan import Plan
from fedtune.training.quiet import without_warnings
from fedtune.training.tasks.schedule import NO_FUNCTION, schedule
from fedtune.training.tasks.task import Learner, OptimizerState, Steps, Task

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments

Config = TypeVar("Config", bound="TrainingArguments")

FAILED_STEP = "failed_step"  # of an error: which local step raised it, from 0
REFERENCE = "ref"  # the name under which TRL keeps a copy of the adapter
# The rows come in the order in which they are to be seen, and each step is told of.
EVERY_STEP = {
    "train_sampling_strategy": "sequential",
    "logging_strategy": "steps",
    "logging_steps": 1,
}
# What a log holds beside what was learnt; time is not the same twice.
_NOT_OF_THE_STEPS = {"loss", "step", "epoch", "learning_rate", "step_time", "num_tokens"}
_MARGINS = ("margin", "rewards/margins")
_WRAPPED = ("forward", "_original_forward")


def make_config(kind: type[Config], plan: Plan, *, steps: int, seed: int, **own: Any) -> Config:  # noqa: ANN401
    """TRL's config of a client-round.

    Args:
        kind: TRL's class.
        plan: Holds the recipe's keys.
        steps: Local steps.
        seed: Seeds dropout, and whatever else the trainer draws.
        own: Keys that the task sets itself.
    """
    keys = {**plan.train, **plan.placement, **own}
    with _old_names():
        config: Config = kind(**keys, max_steps=steps, seed=seed, data_seed=seed)
    # A client trains on one device. With two or more GPUs in sight, transformers would wrap the
    # model in DataParallel and multiply the batch by their number, which TRL refuses.
    if config.n_gpu > 1:
        config._n_gpu = 1
    return config


def setting(kind: type[TrainingArguments], plan: Plan, key: str) -> Any:  # noqa: ANN401
    """A key of TRL's as the recipe has it, else TRL's own default."""
    defaults = {each.name: each.default for each in dataclasses.fields(kind)}
    return plan.train.get(key, defaults[key])


def unbounded(learner: Learner) -> Learner:
    """The same learner, whose rows are not cut: what a length does to them is counted apart."""
    flat = {"packing", "padding_free"} & learner.plan.train.keys()
    train = {**learner.plan.train, **dict.fromkeys(flat, False), "max_length": None}
    return dataclasses.replace(learner, plan=dataclasses.replace(learner.plan, train=train))


def rows_per_round(plan: Plan) -> int:
    """Rows that a round consumes where a step is a batch of rows, or several of them."""
    return plan.local_steps * _rows_per_step(plan)


def steps_for(plan: Plan, num_rows: int) -> int:
    """Steps that look at so many rows at least; the last one takes a whole batch too."""
    return -(-num_rows // _rows_per_step(plan))


def _rows_per_step(plan: Plan) -> int:
    batch = int(plan.train.get("per_device_train_batch_size", 8))
    return batch * int(plan.train.get("gradient_accumulation_steps", 1))


def check_values(kind: type[TrainingArguments], plan: Plan, **own: Any) -> None:  # noqa: ANN401
    """Have TRL look at the values of the recipe's keys.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If TRL or the schedule over all rounds cannot do with one.
    """
    if plan.train.get("lr_scheduler_type") == "reduce_lr_on_plateau":  # else TRL asks for more
        raise ValueError(NO_FUNCTION.format("reduce_lr_on_plateau"))
    for key in ("per_device_train_batch_size", "gradient_accumulation_steps", "max_length"):
        value = plan.train.get(key)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"train.{key}: must be at least 1, a whole number: got {value!r}")
    rate = plan.train.get("learning_rate")
    if isinstance(rate, int | float) and not 0 < rate < math.inf:
        raise ValueError(f"train.learning_rate: must be above 0: got {rate!r}")
    config = make_config(kind, plan, steps=1, seed=0, **own)
    parameter = torch.nn.Parameter(torch.zeros(1))
    learning_rate = float(config.learning_rate)
    schedule(config, torch.optim.SGD([parameter], lr=learning_rate), plan, 0)


def ready(task: Task, rows: Dataset, learner: Learner) -> Dataset:
    """Rows as the task's trainer takes them: tokenised, of a length that fits, held against a
    reference where the task has one.
    """
    _, kept, _ = task.fit(task.prepare(rows, learner), learner)
    kept = kept if task.pack is None else task.pack(kept, learner)
    return kept if task.refer is None else task.refer(kept, range(len(kept)), learner, {})


def run_steps(
    task: Task,
    rows: Dataset,
    learner: Learner,
    *,
    first_step: int,
    seed: int,
    optimizer_state: OptimizerState | None = None,
    mislead: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Steps:
    """Run one round's local steps on the adapter, in place.

    Args:
        task: Its trainer takes them.
        rows: Prepared rows in the order in which they are to be seen.
        learner: Its model holds the anchor.
        first_step: Steps that came before, of the run's one learning-rate schedule.
        seed: Seeds dropout, and what a policy samples.
        optimizer_state: State of an earlier round to go on from; None starts afresh.
        mislead: What a Byzantine client minimises, from the loss of a batch; None: the loss.
    """
    plan = learner.plan
    with untouched(learner):
        trainer = task.make_trainer(rows, learner, steps=plan.local_steps, seed=seed)
        if mislead is not None:
            _mislead(trainer, mislead)
        return _run(trainer, plan, first_step=first_step, optimizer_state=optimizer_state)


def _mislead(trainer: Trainer, mislead: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Exchange what the trainer minimises."""
    honest = trainer.compute_loss

    def compute_loss(*given: Any, **named: Any) -> Any:  # noqa: ANN401  as transformers has it
        found = honest(*given, **named)
        if isinstance(found, tuple):
            return (mislead(found[0]), *found[1:])
        return mislead(found)

    trainer.compute_loss = compute_loss


def _run(
    trainer: Trainer, plan: Plan, *, first_step: int, optimizer_state: OptimizerState | None
) -> Steps:
    optimizer = trainer.create_optimizer()
    if optimizer_state is not None:  # moments alone: the rates are the schedule's
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": optimizer_state, "param_groups": groups})
    trainer.lr_scheduler = schedule(trainer.args, optimizer, plan, first_step)
    with contextlib.redirect_stdout(io.StringIO()):  # the trainer prints its metrics
        try:
            loss = trainer.train().training_loss
        except Exception as error:
            error.__dict__[FAILED_STEP] = step = trainer.state.global_step
            error.add_note(f"local step {step + 1} of {plan.local_steps}")
            raise
    trainer.end()
    state: OptimizerState = optimizer.state_dict()["state"]
    return Steps(float(loss), state, _means(trainer.state.log_history))


def measure_as_trained(
    trainer: Trainer, batch_size: int, *, keys: Mapping[str, str]
) -> dict[str, float]:
    """A trainer's own loss and metrics over its rows, every row counted alike.

    TRL's `evaluate` takes the mean over batches of each metric, so that the rows of a short last
    batch would count more. Here batches go by length: else half of what is computed is padding.

    Args:
        trainer: Of TRL's, with the held-out rows as its rows.
        batch_size: Rows of a batch.
        keys: Of the trainer's metrics, by the name that they get here.
    """
    model, rows = trainer.model, trainer.train_dataset
    rows = rows.select(by_length(rows))
    training, device = model.training, next(model.parameters()).device
    sums = dict.fromkeys(("loss", *keys), 0.0)
    model.eval()
    trainer._metrics["eval"].clear()
    with torch.no_grad():
        for batch in DataLoader(rows, batch_size=batch_size, collate_fn=trainer.data_collator):
            count = len(batch["input_ids"]) // 2  # chosen, then rejected
            moved = {name: each.to(device) for name, each in batch.items()}
            sums["loss"] += count * float(trainer.compute_loss(model, moved))
            for name, key in keys.items():
                sums[name] += count * trainer._metrics["eval"][key][-1]
    trainer._metrics["eval"].clear()
    model.train(training)
    return {name: total / len(rows) for name, total in sums.items()}


def by_length(rows: Dataset) -> list[int]:
    """Numbers of prepared rows, the shortest first, rows of one length in their order."""
    ids = [rows[name] for name in rows.column_names if name.endswith("ids")]
    lengths = [sum(map(len, row)) for row in zip(*ids, strict=True)]
    return sorted(range(len(rows)), key=lengths.__getitem__)


@contextlib.contextmanager
def untouched(learner: Learner) -> Iterator[None]:
    """Undo what a trainer leaves on the model that all trainers share.

    Each trainer wraps the base's ``forward`` once more, so that calls would nest deeper with
    every round until Python's recursion limit; those with a reference leave a copy of the adapter,
    which the next one refuses to find; and those that recompute activations, as TRL does unless
    told not to, hang two to six more hooks on the embedding each round. On a base in 4 bits TRL
    would bring the trained tensors to bfloat16, in which a step below 1/256 of a weight is lost:
    it is not told.
    """
    model = learner.model
    inner = [model, model.get_base_model()]
    hooks = model.get_input_embeddings()._forward_hooks
    hung = set(hooks)
    quantised = inner[1].__dict__.pop("is_loaded_in_4bit", None)
    before = [{key: part.__dict__.get(key) for key in _WRAPPED} for part in inner]
    try:
        with _old_names(), without_warnings(), labelled_alone():  # its logger tells each round anew
            yield
    finally:
        if quantised is not None:
            inner[1].is_loaded_in_4bit = quantised
        if REFERENCE in model.peft_config:
            model.delete_adapter(REFERENCE)
        for hook in set(hooks) - hung:
            del hooks[hook]
        for part, saved in zip(inner, before, strict=True):
            for key, value in saved.items():
                if value is None:
                    part.__dict__.pop(key, None)
                else:
                    part.__dict__[key] = value


@contextlib.contextmanager
def _old_names() -> Iterator[None]:
    """Transformers renamed gradient to activation checkpointing; TRL keeps the old name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*gradient_checkpointing.*", FutureWarning)
        yield


def _means(history: list[dict[str, Any]]) -> dict[str, float]:
    """Each of the trainer's own metrics as a mean over the steps that were logged.

    Of a margin also the first step's: it is taken before that step, so it is the margin with which
    the round begins. One that is 0 again in every round has lost its reference.
    """
    found: dict[str, list[float]] = {}
    for entry in history:
        if "train_runtime" in entry:
            continue
        for name, value in entry.items():
            if name not in _NOT_OF_THE_STEPS:
                found.setdefault(name, []).append(float(value))
    means = {name: sum(values) / len(values) for name, values in found.items()}
    return means | {f"{name}/start": found[name][0] for name in _MARGINS if name in found}
