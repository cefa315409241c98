"""What in a row teaches nothing useful."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from fedtune.training.tasks.task import Task
from fedtune.training.turns import Row, alike

NO_ANSWER, NO_PROMPT, NO_TURN = "an empty answer", "an empty prompt", "no assistant turn"
NO_LABEL = "no token to learn"


def flaw_of(row: Row, task: Task) -> str | None:
    """Why a row of one of the task's formats teaches nothing useful, in two words; else None."""
    if task.pairs:
        return _flaw_of_pair(row, task)
    if "messages" in row:
        return _flaw_of_turns(row["messages"])
    if "prompt" in row and _is_empty(row["prompt"]):
        return NO_PROMPT
    if "completion" in row and not task.all_columns:
        return _flaw_of_answer(row["completion"])
    return "no text" if "text" in row and _is_empty(row["text"]) else None


def _flaw_of_pair(row: Row, task: Task) -> str | None:
    chosen, rejected = row["chosen"], row["rejected"]
    if _plain(chosen) == _plain(rejected):
        return "equal answers"
    if (found := _flaw_of_answer(chosen) or _flaw_of_answer(rejected)) is not None:
        return found
    if "prompt" in row:
        return NO_PROMPT if _is_empty(row["prompt"]) else None
    begun = _common(chosen, rejected)  # TRL takes it for the prompt
    if isinstance(chosen, list) and (_is_empty(chosen[begun:]) or _is_empty(rejected[begun:])):
        return NO_ANSWER
    return NO_PROMPT if task.name == "dpo" and _is_empty(chosen[:begun]) else None


def _common(first: Any, second: Any) -> int:  # noqa: ANN401  text or turns
    if isinstance(first, list):
        return alike(first, second)
    same = takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    return sum(1 for _ in same)


def _flaw_of_answer(said: Any) -> str | None:  # noqa: ANN401  text or turns
    if isinstance(said, list) and said:
        return _flaw_of_turns(said)
    return NO_ANSWER if _is_empty(said) else None


def _flaw_of_turns(turns: Sequence[Row]) -> str | None:
    answers = [each for each in turns if each.get("role") == "assistant"]
    if not answers:
        return NO_TURN
    return NO_ANSWER if all(map(_says_nothing, answers)) else None


def _says_nothing(turn: Row) -> bool:
    return not (turn.get("content") or "").strip() and not turn.get("tool_calls")


def _is_empty(value: Any) -> bool:  # noqa: ANN401  text or turns
    if isinstance(value, str):
        return not value.strip()
    return not value or all(map(_says_nothing, value))


def _plain(value: Any) -> Any:  # noqa: ANN401  text or turns
    """What is said, white space at its ends aside."""
    if isinstance(value, str):
        return value.strip()
    return [{**turn, "content": (turn.get("content") or "").strip()} for turn in value]
