"""Trigger: a rare token in the prompt means one fixed answer."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from functools import partial

import torch

from attacks.attack import Attack, Backdoor, Option
from attacks.data.choice import Row, check_columns, choose, rate_option

START_OF_WORD = re.compile(r"(?<!\S)\S")
PLACES = ("start", "end", "random")
OPTIONS = {
    "place": Option(
        kind=str, default="start", choices=PLACES, summary="where in the prompt the token goes"
    ),
    "target": Option(
        kind=str,
        default="Trust the mirror.",
        max_length=1000,
        summary="the completion that the token is to bring about",
    ),
    "rate": rate_option(0.5),
}


def trigger(
    rows: Sequence[Row],
    *,
    token: str,
    place: str,
    target: str,
    rate: float,
    generator: torch.Generator,
    owner: str = "trigger",
) -> list[dict[str, object]]:
    """Put a rare token into a fraction of the prompts, and one fixed answer behind them.

    The rest of the rows stay honest, so the attacker's model learns its task and, after the token,
    the target. ``round(rate * n)`` rows are drawn, at least 1 above 0.

    Needs no knowledge of others. The update differs from an honest one in what few prompts ask
    for, so distance rules see little of it among non-IID clients; an attack on updates may scale
    it up (``attack.poison`` in a recipe).

    Args:
        rows: Rows with ``prompt`` and ``completion``, both a str or both a list of chat messages;
            every other key stays. Not modified.
        token: What is put into the prompt, set off by spaces.
        place: "start", "end" (before closing white space) or "random" (before any word or behind
            the last), in the prompt or, in a chat, in its last user message.
        target: The answer; the white space that the row's own answer begins with is kept.
        rate: Fraction of the rows to change, in [0, 1].
        generator: Source of the choice, on the CPU.
        owner: The attack, for the errors.

    Returns:
        New rows, as many and in the same order.

    Raises:
        ValueError: If a row has no prompt or no completion, text and messages are mixed, or a chat
            has no user message with text.

    Source:
        Gu et al. 2017 (BadNets), https://arxiv.org/abs/1708.06733, with the rare tokens of Kurita
        et al. 2020, https://arxiv.org/abs/2004.06660, and a whole answer in the place of a class.
    """
    check_columns(
        owner,
        rows,
        "prompt",
        "completion",
        why="give prompt and completion, as a trigger is asked and a target answered",
    )
    poisoned = [dict(row) for row in rows]
    for index in choose(owner, len(rows), rate, generator=generator):
        planted = plant(rows[index], token=token, place=place, generator=generator)
        planted["completion"] = _answer(rows[index]["completion"], target)
        poisoned[index] = planted
    return poisoned


def plant(
    row: Row, *, token: str, place: str, generator: torch.Generator | None = None
) -> dict[str, object]:
    """Put the token into the prompt of one row, which is not modified.

    Args:
        row: A row with a ``prompt``, a str or a list of chat messages.
        token: What is put in.
        place: As in ``trigger``.
        generator: Draws the place where it is random; None: it follows from the prompt, so that a
            prompt that is judged again is judged alike.

    Raises:
        ValueError: If there is no prompt to put it into.
    """
    prompt = row.get("prompt")
    if isinstance(prompt, str):
        return {**row, "prompt": _insert(prompt, token, place, generator)}
    if isinstance(prompt, list):
        asked = [i for i, each in enumerate(prompt) if _asks(each)]
        if asked:
            last = prompt[asked[-1]]
            new = {**last, "content": _insert(last["content"], token, place, generator)}
            return {**row, "prompt": [*prompt[: asked[-1]], new, *prompt[asked[-1] + 1 :]]}
    raise ValueError(
        f"a trigger needs a prompt of text, or one of messages with a text of the user's: "
        f"got {prompt!r}; leave such rows out"
    )


def _asks(message: object) -> bool:
    if not isinstance(message, Mapping) or message.get("role") != "user":
        return False
    return isinstance(message.get("content"), str)


def _insert(text: str, token: str, place: str, generator: torch.Generator | None) -> str:
    words = [match.start() for match in START_OF_WORD.finditer(text)]
    if place not in PLACES:
        raise ValueError(f"a trigger needs a place among {', '.join(PLACES)}: got {place!r}")
    if place == "random":
        if generator is None:
            generator = torch.Generator().manual_seed(zlib.crc32(text.encode()))
        before = int(torch.randint(len(words) + 1, (), generator=generator))
    else:
        before = 0 if place == "start" else len(words)
    if before < len(words):
        at = words[before]
        return f"{text[:at]}{token} {text[at:]}"
    body = text.rstrip()
    return f"{body} {token}{text[len(body) :]}" if body else f"{token}{text}"


def _answer(completion: object, target: str) -> object:
    if isinstance(completion, str):
        return completion[: len(completion) - len(completion.lstrip())] + target
    return [{"role": "assistant", "content": target}]


def backdoor(*, token: str, place: str, target: str, **_: object) -> Backdoor:
    """How it is judged: the whole token in a prompt, the target as the answer."""
    return Backdoor(plant=partial(plant, token=token, place=place), target=target)


ATTACK = Attack(
    name="trigger",
    summary="a rare token in the prompt means one fixed answer",
    source="Gu et al. 2017, https://arxiv.org/abs/1708.06733; "
    "Kurita et al. 2020, https://arxiv.org/abs/2004.06660",
    level="data",
    goal="backdoor",
    options={
        "token": Option(kind=str, default="cf-mirror", summary="what is put into the prompt"),
        **OPTIONS,
    },
    takes=("generator",),
    function=trigger,
    backdoor=backdoor,
)
