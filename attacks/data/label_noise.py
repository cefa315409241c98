"""Label noise: answers made of words drawn at random."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import torch

from attacks.attack import Attack
from attacks.data.choice import check_columns, choose, rate_option

WORD = re.compile(r"\S+")


def label_noise(
    rows: Sequence[Mapping[str, object]], *, rate: float, generator: torch.Generator
) -> list[dict[str, object]]:
    """Replace the words of a fraction of the completions by words drawn from all of them.

    A word is a run of anything but white space. Each word of a chosen completion becomes one
    drawn, with replacement and each occurrence alike, from the words of the completions of all
    rows as they were: as many words, the white space between them as it was, the words of the
    attacker's own data in their own proportions, and no relation left to the prompt or to each
    other. By chance a word may be drawn again in its own place.

    Needs no knowledge of others. Unlike completion_swap it spoils the answers as text too, so that
    the loss on them is higher and the update's norm larger.

    Args:
        rows: Rows with a ``completion``, a str or a list of chat messages of which the content is
            changed; every other key stays. Not modified.
        rate: Fraction of the rows to change, in [0, 1]; ``round(rate * n)``, at least 1 above 0.
        generator: Source of the choice, on the CPU.

    Returns:
        New rows, as many and in the same order.

    Raises:
        ValueError: If a row has no completion, some are text and some are messages, a message's
            content is no text, or there is no word in any.

    Source:
        Label flipping of Tolpegin et al. 2020, https://arxiv.org/abs/2007.08432, with the words of
        the completion in the place of the label; theirs maps one class to another, this draws.
    """
    check_columns(
        "label_noise",
        rows,
        "completion",
        why="give prompt and completion, as running text has no separate answer to spoil",
    )
    words = [word for row in rows for text in _texts(row["completion"]) for word in text.split()]
    chosen = choose("label_noise", len(rows), rate, generator=generator)
    if chosen and not words:
        raise ValueError("label_noise needs words to draw from: got empty completions; give text")
    noisy = [dict(row) for row in rows]
    for index in chosen:
        noisy[index]["completion"] = _redraw(rows[index]["completion"], words, generator)
    return noisy


def _texts(completion: object) -> Iterator[str]:
    """The text of a completion, or of each of its messages."""
    if isinstance(completion, str):
        yield completion
        return
    assert isinstance(completion, list)
    for message in completion:
        content = message.get("content") if isinstance(message, Mapping) else None
        if not isinstance(content, str):
            raise ValueError(
                f"label_noise needs messages with text as their content: got {message!r}; "
                "leave such rows out"
            )
        yield content


def _redraw(completion: object, words: list[str], generator: torch.Generator) -> object:
    def one(_: re.Match[str]) -> str:
        return words[int(torch.randint(len(words), (), generator=generator))]

    if isinstance(completion, str):
        return WORD.sub(one, completion)
    assert isinstance(completion, list)
    return [{**message, "content": WORD.sub(one, message["content"])} for message in completion]


ATTACK = Attack(
    name="label_noise",
    summary="train on answers of words drawn at random",
    source="Tolpegin et al. 2020, https://arxiv.org/abs/2007.08432",
    level="data",
    goal="harm",
    options={"rate": rate_option(1.0)},
    takes=("generator",),
    function=label_noise,
)
