"""Rows whose prompt alone has other tokens than the same prompt before its answer.

At the end of the prompt tokens merge with the answer's first ones, or a chat template renders the
prompt otherwise. TRL takes the tokens from there on for the answer's, and warns once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedtune.training.questions import prompt_ids, split_row
from fedtune.training.tasks.task import Learner, Task

if TYPE_CHECKING:
    from datasets import Dataset


def count_parted(rows: Dataset, whole: Dataset, task: Task, learner: Learner) -> int:
    """How many rows of pairs, or of prompts with an answer, are so.

    Args:
        rows: As the source has them.
        whole: The same as the task prepares them, at any length.
        task: Of the rows.
        learner: Whose tokenizer.
    """
    key = {"sft": "input_ids", "dpo": "prompt_ids"}.get(task.name)
    of_all = learner.plan.train.get("completion_only_loss") is False
    if key is None or (task.name == "sft" and (of_all or "prompt" not in rows.column_names)):
        return 0
    count = 0
    for row, ids in zip(rows, whole[key], strict=True):
        if (split := split_row(row)) is not None:
            alone = prompt_ids(split[0], row, learner)
            count += ids[: len(alone)] != alone
    return count
