"""Which rows cannot be prepared, and which teach nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedtune.training.generation import IGNORED
from fedtune.training.tasks import Learner, Task

if TYPE_CHECKING:
    from datasets import Dataset


def first_bad(
    task: Task, rows: Dataset, learner: Learner, error: Exception
) -> tuple[int, Exception]:
    """The place of the first row that cannot be tokenised alone, and why not.

    Args:
        task: Prepares them.
        rows: At least one of which cannot be.
        learner: Its tokenizer is asked.
        error: What all together have raised.
    """
    low, high = 0, len(rows)  # all before `low` can be
    while high - low > 1:
        middle = (low + high) // 2
        try:
            task.prepare(rows.select(range(low, middle)), learner)
            low = middle
        except Exception as found:
            high, error = middle, found
    return low, error


def without_label(whole: Dataset, places: Sequence[int]) -> list[int]:
    """Of some places those of rows that nothing is learnt of at any length."""
    if "labels" not in whole.column_names:
        return []
    labels = zip(places, whole.select(places)["labels"], strict=True)
    return [place for place, each in labels if all(one == IGNORED for one in each)]
