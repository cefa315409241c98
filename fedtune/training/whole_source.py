"""What is wrong with all rows of a source alike, though a trainer met it in one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedtune.training.plan import with_key
from fedtune.training.tasks.task import Learner
from fedtune.training.turns import TURNS, is_list

if TYPE_CHECKING:
    from datasets import Dataset

REMEDY = "; take them out, or name the right columns under data.columns"
_TOKENS = ("eos_token", "pad_token")


def of_all_rows(error: Exception, rows: Dataset, learner: Learner) -> str | None:
    """Why no row can be tokenised, with the key to mend; None where the row itself is at fault.

    Args:
        error: What preparing the rows raised.
        rows: As the source has them.
        learner: Whose tokenizer.
    """
    if learner.tokenizer.chat_template is None and any(is_list(rows, name) for name in TURNS):
        return (
            "model.name_or_path: the rows are conversations, and the tokenizer has no chat "
            "template; name a model that has one, or bring the rows to prompt and completion as "
            "text"
        )
    said = str(error)
    if any(f"`{key}`" in said and key in learner.plan.train for key in _TOKENS):
        return with_key(said, learner.plan.train)
    return None
