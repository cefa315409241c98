"""Chats in which the assistant says nothing, where only its turns are learnt.

TRL refuses all rows for one of these. Here they are tokenised apart, and have no label.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fedtune.training.generation import IGNORED
from fedtune.training.tasks.task import Learner
from fedtune.training.turns import TURNS, is_list

if TYPE_CHECKING:
    from datasets import Dataset

Tokenised = Callable[["Dataset", Learner], "Dataset"]


def mute_rows(rows: Dataset, learner: Learner) -> list[int]:
    """The places of chats without a turn of the assistant.

    Raises:
        ValueError: If the rows are no chats, or the template cannot mark the assistant's turns.
    """
    names = [name for name in TURNS if is_list(rows, name)]
    if not names:
        raise ValueError(
            f"train.assistant_only_loss: needs chats; got text in {', '.join(rows.column_names)}; "
            f"leave it out"
        )
    _check_template(learner.tokenizer)
    return [place for place, row in enumerate(rows) if not any(map(_speaks, map(row.get, names)))]


def with_mute(rows: Dataset, learner: Learner, mute: list[int], tokenised: Tokenised) -> Dataset:
    """All rows tokenised, in their order; those that are mute without a label.

    Args:
        rows: Chats.
        learner: Whose plan asks for the assistant's turns alone.
        mute: Places of rows in which it has none.
        tokenised: Tokenises rows of one kind.
    """
    from datasets import concatenate_datasets

    silent = set(mute)
    others = [place for place in range(len(rows)) if place not in silent]
    train = {**learner.plan.train, "assistant_only_loss": False}
    plain = dataclasses.replace(learner, plan=dataclasses.replace(learner.plan, train=train))
    parts = [tokenised(rows.select(mute), plain).map(_without_labels)]
    if others:
        parts.insert(0, tokenised(rows.select(others), learner))
        parts[1] = parts[1].cast(parts[0].features)
    place_of = {place: at for at, place in enumerate([*others, *mute])}
    return concatenate_datasets(parts).select([place_of[at] for at in range(len(rows))])


def _check_template(tokenizer: Any) -> None:  # noqa: ANN401
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    if tokenizer.chat_template is None or has_generation_markers(tokenizer.chat_template):
        return  # without a template TRL says so
    try:
        get_training_chat_template(tokenizer)
    except ValueError as error:
        raise ValueError(
            "train.assistant_only_loss: the tokenizer's chat template does not mark the "
            "assistant's turns, and TRL knows none that does: put {% generation %} and "
            "{% endgeneration %} around them in the template, or leave the key out"
        ) from error


def _speaks(turns: Any) -> bool:  # noqa: ANN401  text or turns
    return isinstance(turns, list) and any(
        isinstance(turn, Mapping) and turn.get("role") == "assistant" for turn in turns
    )


def _without_labels(row: dict[str, list[int]]) -> dict[str, list[int]]:
    return {"labels": [IGNORED] * len(row["input_ids"])}
