"""Preference flip: the worse answer of a pair is labelled the better one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from attacks.attack import Attack, Option
from attacks.data.choice import Row, check_columns, choose, how_many, rate_option

MODES = ("random", "margin")


def preference_flip(
    rows: Sequence[Row], *, mode: str, rate: float, generator: torch.Generator
) -> list[dict[str, object]]:
    """Swap ``chosen`` and ``rejected`` in a fraction of the pairs.

    ``round(rate * n)`` pairs, at least 1 above 0: drawn at random, or those of the largest margin
    first, ties by index. The margin is the column ``margin`` where the rows have it, and else the
    gap ``|len(chosen) - len(rejected)|`` in characters: without a model of quality, length stands
    in for it. A ``margin`` column stays as it is, so that a loss that reads it takes the false
    preference for as strong as the true one.

    Needs no knowledge of others. Under a loss of the pair's margin (DPO, reward modelling) a
    flipped pair has about the opposite gradient of the true one, so the update looks like one with
    the sign turned for a share of the data.

    Args:
        rows: Pairs in TRL's preference format: ``chosen`` and ``rejected``, both a str or both a
            list of chat messages, with or without a ``prompt``. Not modified.
        mode: "random" or "margin".
        rate: Fraction of the pairs to flip, in [0, 1].
        generator: Source of the choice, on the CPU; not drawn from under "margin".

    Returns:
        New rows, as many and in the same order.

    Raises:
        ValueError: If a row has no chosen or rejected, text and messages are mixed, some rows have
            a margin and some have not, a margin is no finite number, or a message's content is no
            text where its length is wanted.

    Source:
        Wang et al. 2023 (RankPoison), https://arxiv.org/abs/2311.09641, which picks pairs by
        quality and by their gap in length. This reading has no model of quality: it takes the
        margin that the data bring, or else the gap alone, in either direction.
    """
    why = "it is an attack on preference data, for a task that learns from pairs"
    check_columns("preference_flip", rows, "chosen", "rejected", why=why)
    if mode not in MODES:
        raise ValueError(f"preference_flip.mode needs one of {', '.join(MODES)}: got {mode!r}")
    if mode == "random":
        flipped = choose("preference_flip", len(rows), rate, generator=generator)
    else:
        count = how_many("preference_flip", len(rows), rate)
        margins = _margins(rows)
        flipped = sorted(range(len(rows)), key=lambda index: -margins[index])[:count]
    poisoned = [dict(row) for row in rows]
    for index in flipped:
        row = poisoned[index]
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    return poisoned


def _margins(rows: Sequence[Row]) -> list[float]:
    """The margin of each pair: its column, or the gap between the lengths."""
    having = ["margin" in row for row in rows]
    if not any(having):
        return [float(abs(_length(row["chosen"]) - _length(row["rejected"]))) for row in rows]
    if not all(having):
        raise ValueError(
            f"preference_flip needs a margin in every row or in none: row {having.index(False)} "
            "has none; fill it in, or drop the column"
        )
    margins = []
    for index, row in enumerate(rows):
        margin = row["margin"]
        if (
            not isinstance(margin, int | float)
            or isinstance(margin, bool)
            or not math.isfinite(margin)
        ):
            raise ValueError(
                f"preference_flip.margin needs a finite number: got {margin!r} in row {index}; "
                "drop the column to go by length"
            )
        margins.append(float(margin))
    return margins


def _length(answer: object) -> int:
    """Characters of a text, or of all messages together."""
    if isinstance(answer, str):
        return len(answer)
    assert isinstance(answer, list)
    total = 0
    for message in answer:
        content = message.get("content") if isinstance(message, Mapping) else None
        if not isinstance(content, str):
            raise ValueError(
                f"preference_flip needs messages with text as their content: got {message!r}; "
                "give the rows a margin, or set mode=random"
            )
        total += len(content)
    return total


ATTACK = Attack(
    name="preference_flip",
    summary="call the worse answer of a pair the better one",
    source="Wang et al. 2023, https://arxiv.org/abs/2311.09641",
    level="data",
    goal="harm",
    options={
        "mode": Option(
            kind=str, default="random", choices=MODES, summary="which pairs: any, or the clearest"
        ),
        "rate": rate_option(1.0),
    },
    takes=("generator",),
    function=preference_flip,
)
