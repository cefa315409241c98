"""Reward functions of TRL's own signature, called as its GRPOTrainer calls them.

``reward(prompts, completions, **kwargs) -> list[float | None]``: lists over completions, by name;
``kwargs`` holds ``completion_ids``, each further column of the rows as a list, ``trainer_state``,
``log_extra`` and ``log_metric``.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

Scores = list[float | None]
Function = Callable[..., Scores]
OWN = ("prompts", "completions", "completion_ids")
BESIDE = ("trainer_state", "log_extra", "log_metric")
_NOT_A_COLUMN = {"prompt", "completion", "completion_ids"}  # TRL hands these over under OWN
_OURS = "(prompt, completion, row)"


def takes_lists(function: Callable[..., Any], entry: str) -> bool:
    """Whether a function has TRL's signature and not ours, told by the names of its arguments.

    Args:
        function: Of an entry point.
        entry: Its name, for the error.

    Raises:
        ValueError: If it can be called in neither way.
    """
    try:
        said = inspect.signature(function)
    except (TypeError, ValueError):  # some builtins have none
        return False
    if set(said.parameters) & {*OWN, *BESIDE}:
        return True
    try:
        said.bind("", "", {})
    except TypeError:
        if any(each.kind is each.VAR_KEYWORD for each in said.parameters.values()):
            return True
        raise ValueError(
            f"rewards: entry point {entry!r} needs the arguments {_OURS}, or TRL's (prompts, "
            f"completions, **kwargs); got {said}"
        ) from None
    return False


def check_columns(function: Callable[..., Any], entry: str, columns: Collection[str]) -> None:
    """Refuse a function of TRL's signature that cannot be called with what these rows have.

    Raises:
        ValueError: Naming the argument.
    """
    names = {*OWN, *BESIDE, *(set(columns) - _NOT_A_COLUMN)}
    try:
        inspect.signature(function).bind(**dict.fromkeys(names))
    except TypeError as error:
        raise ValueError(
            f"rewards: entry point {entry!r} cannot be called as TRL does: {error}; it takes "
            f"**kwargs, and the data has {', '.join(columns)}"
        ) from None


def scoring(function: Callable[..., Any], entry: str) -> Function:
    """A function of TRL's signature whose results are numbers, or None where it says nothing.

    What is no finite number is None, as NaN is to TRL. A coroutine is waited for.

    Raises:
        ValueError: When it is called, if it returns anything but one number or None for each.
    """

    def score(**given: Any) -> Scores:  # noqa: ANN401  as TRL has it
        found = function(**given)
        if inspect.isawaitable(found):
            found = asyncio.run(_waited(found))
        scores, needed = list(found), len(given["prompts"])
        if len(scores) != needed:
            raise ValueError(
                f"rewards: entry point {entry!r} needs to return one reward for each of {needed} "
                f"completions; got {len(scores)}"
            )
        return [_number(each, entry) for each in scores]

    return score


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """What TRL hands over of rows: a list for each column that is not the prompt."""
    return {key: [row[key] for row in rows] for key in rows[0] if key not in _NOT_A_COLUMN}


def outside_of_training(
    rows: Sequence[Mapping[str, Any]],
    texts: Sequence[str],
    ids: Sequence[list[int]],
) -> dict[str, Any]:
    """The arguments that TRL would give for answers to held-out rows; what is logged is dropped.

    Args:
        rows: Whole, with their prompts.
        texts: The answers.
        ids: Their tokens.
    """
    from transformers import TrainerState

    prompts = [row["prompt"] for row in rows]
    talk = not isinstance(prompts[0], str)
    said = [[{"role": "assistant", "content": text}] for text in texts] if talk else list(texts)
    own = {"prompts": prompts, "completions": said, "completion_ids": list(ids)}
    return {
        **columns_of(rows),
        **own,
        "trainer_state": TrainerState(),
        "log_extra": lambda column, values: None,
        "log_metric": lambda name, value: None,
    }


async def _waited(found: Any) -> Any:  # noqa: ANN401
    return await found


def _number(value: Any, entry: str) -> float | None:  # noqa: ANN401
    if value is None:
        return None
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, int | float):
        raise ValueError(
            f"rewards: entry point {entry!r} needs to return numbers or None; got "
            f"{type(value).__name__}"
        )
    return float(value) if math.isfinite(value) else None
