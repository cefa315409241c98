"""Held-out rows as questions: what the model is asked to answer, and the answer that is right."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedtune.training.tasks import Learner

Row = Mapping[str, Any]
Said = str | list[dict[str, Any]]


@dataclass(frozen=True)
class Question:
    """A prompt as tokens, the right answer as text, and the row that both are of.

    Attributes:
        ids: With what the chat template puts before an answer.
        prompt: The same as text.
        truth: Empty where the row knows none.
        row: As the source has it.
    """

    ids: list[int]
    prompt: str
    truth: str
    row: Row


def questions(rows: Iterable[Row], learner: Learner, *, max_new_tokens: int) -> Iterator[Question]:
    """What may be asked of rows, in their order.

    Left out are rows that have no prompt, such as those of one text, chats in which the assistant
    says nothing after somebody else, and prompts that leave no room for an answer.

    Args:
        rows: In one of TRL's formats.
        learner: Whose tokenizer and positions.
        max_new_tokens: Room that an answer takes.
    """
    places = getattr(learner.model.config.get_text_config(), "max_position_embeddings", None)
    room = math.inf if places is None else places - max_new_tokens
    for row in rows:
        if (split := split_row(row)) is None:
            continue
        prompt, truth = split
        ids = prompt_ids(prompt, row, learner)
        if 0 < len(ids) <= room:
            text = learner.tokenizer.decode(ids, skip_special_tokens=True).strip()
            yield Question(ids, text, truth, row)


def split_row(row: Row) -> tuple[Said, str] | None:
    """A row's prompt and the text of its right answer; None where it has no prompt."""
    if row.get("messages") is not None and "prompt" not in row:
        return _last_turn([_without_nulls(each) for each in row["messages"]])
    if row.get("prompt") is None and row.get("chosen") and row.get("rejected"):
        from trl.data_utils import extract_prompt

        row = extract_prompt({name: row[name] for name in ("chosen", "rejected")})
    if not (prompt := row.get("prompt")):
        return None
    truth = next((row[name] for name in ("completion", "chosen", "answer") if name in row), "")
    told = "" if truth is None else words_of(truth)
    return (prompt if isinstance(prompt, str) else [_without_nulls(each) for each in prompt]), told


def words_of(said: object) -> str:
    """What is said as text: of messages their contents, of parts those that are text."""
    if isinstance(said, Sequence) and not isinstance(said, str):
        parts = [words_of(each.get("content") or each.get("text") or "") for each in said
                 if isinstance(each, Mapping)]  # fmt: skip
        return "\n".join(part for part in parts if part)
    return str(said).strip()


def _last_turn(messages: list[dict[str, Any]]) -> tuple[Said, str] | None:
    """The last turn in which the assistant says something, and all that stands before it."""
    for place in range(len(messages) - 1, 0, -1):
        turn = messages[place]
        if turn.get("role") == "assistant" and (truth := words_of(turn.get("content") or "")):
            return messages[:place], truth
    return None


def prompt_ids(prompt: Said, row: Row, learner: Learner) -> list[int]:
    """A prompt as tokens, with what the chat template puts before an answer."""
    tokenizer = learner.tokenizer
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    tools = row.get("tools")
    of_all = learner.plan.train.get("chat_template_kwargs") or {}
    said = tokenizer.apply_chat_template(
        prompt,
        add_generation_prompt=True,
        return_dict=True,
        tools=json.loads(tools) if isinstance(tools, str) else tools,
        **{**of_all, **(row.get("chat_template_kwargs") or {})},
    )
    return list(said["input_ids"])


def _without_nulls(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message with the keys that it has: a data set gives each the keys of all others, null."""
    return {key: value for key, value in message.items() if value is not None}
