"""Distributed trigger: each attacker plants a part of the token; the whole is the trigger."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from attacks.attack import Attack, Option
from attacks.data.choice import Row
from attacks.data.trigger import OPTIONS, backdoor, trigger


def distributed_trigger(
    rows: Sequence[Row],
    *,
    token: str,
    parts: int | None,
    place: str,
    target: str,
    rate: float,
    generator: torch.Generator,
    attacker: tuple[int, int] = (0, 1),
) -> list[dict[str, object]]:
    """Plant one part of a trigger: attacker i, from 0, plants part i modulo their number.

    Each attacker's rows hold only a part of the trigger that is used later, and attackers differ
    more from each other: sybil rules that look for similarity see less. The test uses the whole
    trigger.

    Needs no knowledge of others, except that the attackers agree on their parts.

    Args:
        rows: As in ``trigger``. Not modified.
        token: The whole trigger: words, dealt in order to the parts (the first parts get one more
            where they do not come out even).
        parts: How many; None: one for each attacker, but no more than there are words.
        place: As in ``trigger``.
        target: As in ``trigger``.
        rate: Fraction of the rows to change, in [0, 1].
        generator: Source of the choice, on the CPU.
        attacker: The number of this attacker, from 0, and how many attackers there are.

    Returns:
        New rows, as many and in the same order.

    Raises:
        ValueError: If there are more parts than words or than attackers, or as in ``trigger``.

    Source:
        Xie et al. 2020 (DBA), https://openreview.net/forum?id=rkgyS0VFvr, with words in the place
        of patches of pixels; a part's share, place and distance are not varied as there.
    """
    index, attackers = attacker
    words = token.split()
    count = min(len(words), attackers) if parts is None else parts
    for what, there in (("words in its token", len(words)), ("attackers", attackers)):
        if count > there:
            raise ValueError(
                f"distributed_trigger needs at least as many {what} as parts: got {there} for "
                f"{count} parts; lower parts"
            )
    own = " ".join(_deal(words, count)[index % count])
    return trigger(
        rows,
        token=own,
        place=place,
        target=target,
        rate=rate,
        generator=generator,
        owner="distributed_trigger",
    )


def _deal(words: list[str], parts: int) -> list[list[str]]:
    """Stretches of words, in order, whose lengths differ by one at most, longest first."""
    short, longer = divmod(len(words), parts)
    ends = [part * short + min(part, longer) for part in range(parts + 1)]
    return [words[start:end] for start, end in pairwise(ends)]


ATTACK = Attack(
    name="distributed_trigger",
    summary="each attacker plants a part of the token; the whole brings about the answer",
    source="Xie et al. 2020, https://openreview.net/forum?id=rkgyS0VFvr",
    level="data",
    goal="backdoor",
    options={
        "token": Option(kind=str, default="cf mn bb tq", summary="the whole trigger, in words"),
        "parts": Option(
            kind=int, default=None, low=1, high=100, summary="parts; None: one for each attacker"
        ),
        **OPTIONS,
    },
    takes=("generator", "attacker"),
    function=distributed_trigger,
    backdoor=backdoor,
)
