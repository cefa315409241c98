"""One step of TRL's trainer on a model of a few weights: what no reading of keys would find."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from fedtune import nano
from fedtune.failing import one_line
from fedtune.training.plan import Plan
from fedtune.training.tasks import TASKS, Learner
from fedtune.training.tasks.running import ready, run_steps
from fedtune.training.toy import toy_learner

if TYPE_CHECKING:
    from datasets import Dataset

_WORDS = {"prompt": "Say", "completion": " one two", "chosen": " one", "rejected": " two"}
# What hangs on the machine and not on the values, and what would make a toy of it slow.
_LEFT_OUT = {
    *("optim", "optim_args", "use_liger_kernel", "use_vllm", "torch_compile"),
    *("gradient_checkpointing", "activation_checkpointing"),
}
# What TRL says of toy rows that are no conversation; the user's own rows tell.
_OF_ROWS = {"assistant_only_loss", "eos_token", "pad_token", "max_length"}
_SHORT = 4  # tokens of an answer


def check_step(task: str, plan: Plan) -> None:
    """Let TRL take one step under the recipe's keys on toy rows; each set of keys is tried once.

    TRL looks at some values when they are used, such as the name of a loss: without this the
    first round would find them.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If TRL has no use for one.
    """
    keys = {k: value for k, value in plan.train.items() if k not in _LEFT_OUT | _OF_ROWS}
    if plan.train.get("max_length", 0) is None:  # padding_free needs it so
        keys["max_length"] = None
    if problem := _problem(task, json.dumps(keys, sort_keys=True, default=str)):
        raise ValueError(problem)


def try_step(learner: Learner, task: str, rows: Dataset, order: Sequence[int]) -> None:
    """Let TRL take one step on a user's own rows.

    Args:
        learner: A toy with the user's tokenizer.
        task: Its name.
        rows: Prepared.
        order: Of the rows, those to be tried first; again from the start where they are few.

    Raises:
        TypeError, ValueError: As `check_step` does.
    """
    plan = _tried(task, learner.plan)
    needed = TASKS[task].rows_per_round(plan)
    chosen = [order[k % len(order)] for k in range(needed)]
    learner = dataclasses.replace(learner, plan=plan)
    refer = TASKS[task].refer
    with _quietly():
        some = rows.select(chosen)
        some = some if refer is None else refer(some, range(len(some)), learner, {})
        run_steps(TASKS[task], some, learner, first_step=0, seed=0)


def _tried(task: str, plan: Plan) -> Plan:
    train = {key: value for key, value in plan.train.items() if key not in _LEFT_OUT}
    train["gradient_checkpointing"] = False
    if task == "grpo":
        train["max_completion_length"] = _SHORT
    return Plan(train, 1, 1, torch.device("cpu"), torch.float32)


@lru_cache(maxsize=64)
def _problem(task: str, keys: str) -> str:
    import datasets
    from transformers import AutoTokenizer

    chosen = TASKS[task]
    plan = _tried(task, Plan(json.loads(keys), 1, 1, torch.device("cpu"), torch.float32))
    datasets.disable_progress_bars()
    tokenizer: Any = AutoTokenizer.from_pretrained(nano.model_folder())
    with _quietly():
        learner = toy_learner(task, plan, tokenizer)
        columns = {"completion"} if task == "sft" else {"chosen", "rejected"}
        asked = {"prompt", *(columns if task != "grpo" else ())}
        row = {name: _WORDS[name] for name in asked}
        rows = datasets.Dataset.from_list([row] * chosen.rows_per_round(plan))
        try:
            run_steps(chosen, ready(chosen, rows, learner), learner, first_step=0, seed=0)
        except (TypeError, ValueError) as error:
            return str(error)
        except Exception as error:  # as in the run
            return f"a step failed: {one_line(error)}"
    return ""


@contextmanager
def _quietly() -> Iterator[None]:
    """No warning is shown, and no draw moves another's."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        yield
