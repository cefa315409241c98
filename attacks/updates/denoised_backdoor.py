"""Denoised backdoor: the effect of poisoned data, averaged over attackers and rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attacks.attack import Attack, Option
from attacks.scene import Scene
from attacks.statistics import mean as mean_of
from attacks.updates.aimed import (
    LENGTH,
    MEAN,
    behind_the_mean,
    capture_family,
    made,
    scaled,
    searched_rows,
    smoothed,
    span_of,
)
from attacks.updates.framing import easiest, framing_family
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor

MEMORY = Option(
    kind=float, default=0.7, low=0.0, high=0.999, summary="decay of the direction's running average"
)
ENOUGH = Option(
    kind=float,
    default=1.0,
    low=0.0,
    high=1e9,
    summary="push of the aggregate, in honest lengths, at which a search stops",
)


def denoised_backdoor(
    honest: Tensor,
    *,
    num_attackers: int,
    scene: Scene,
    own: Tensor | None,
    generator: torch.Generator | None = None,
    memory: float = 0.7,
    mean: float = 1.0,
    length: float = 1.0,
    enough: float = 1.0,
    framed: int = 0,
) -> Tensor:
    """Send ``mean * mu + length * T`` from every attacker, T being the poison's effect.

    It is to be used with a poison, such as ``trigger`` at rate 1.0. Each attacker's own update is
    the sum of the common step, the poison's effect, and the noise of its data. The mean of ``own``
    less the visible mean has part of that noise; its mean over rounds has less. What is left is
    the trigger, which no honest client contradicts. mu is added so that the model is otherwise
    unharmed, and all rows are alike (``capture``).

    A search finds the two numbers, or with ``framed`` any combination (``framing``), that push the
    aggregate furthest along T, but not further than ``enough``.

    Args:
        honest: The updates the attackers see, shape (h, d), floating point.
        num_attackers: How many rows to craft.
        scene: Its memory keeps the direction.
        own: What each attacker has trained on poisoned rows; required.
        generator: Draws the search.
        memory: How much of the direction's past stays, in [0, 1).
        mean: How much of the visible mean.
        length: How much of the direction, in honest lengths.
        enough: The push that a search is content with.
        framed: How many honest clients a search begins by framing; 0: none.

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``, all alike.

    Raises:
        ValueError: If ``own`` is missing, a view is malformed, or the search lacks the rule.

    Source:
        fedtune; the aim is that of Bagdasaryan et al. 2020, https://arxiv.org/abs/1807.00459
    """
    check_view(honest, num_attackers=num_attackers, own=own)
    aim = learnt("denoised_backdoor", honest, own, scene=scene, memory=memory)
    h = len(honest)
    if scene.search is None:
        row = behind_the_mean(h, mean, length)
        return made(row.repeat(num_attackers, 1), honest, aim)
    span = span_of("denoised_backdoor", scene, aim)
    if framed:
        victims = easiest(span.gram[:h, :h], num_attackers)
        family = framing_family(victims, min(framed, h - 1), num_attackers)
    else:
        family = capture_family(h, num_attackers)
    return searched_rows(
        "denoised_backdoor", family, honest, aim, span=span, scene=scene, generator=generator,
        enough=enough,
    )  # fmt: skip


def learnt(name: str, honest: Tensor, own: Tensor | None, *, scene: Scene, memory: float) -> Tensor:
    """What the poison taught all attackers over the rounds, at the honest median length."""
    if own is None:
        raise ValueError(f"{name} needs what each attacker has trained: got own=None; pass own")
    taught = mean_of(own) - mean_of(honest)
    return scaled(smoothed(name, taught, scene=scene, memory=memory), like=honest)


def watch(
    honest: Tensor, *, scene: Scene, own: Tensor | None, memory: float = 0.7, **_: object
) -> None:
    """Go on learning the direction in a round without attack."""
    learnt("denoised_backdoor", honest, own, scene=scene, memory=memory)


ATTACK = Attack(
    name="denoised_backdoor",
    summary="what a poison taught the attackers, cleaned of noise, behind the honest mean",
    source="fedtune; the aim: Bagdasaryan et al. 2020, https://arxiv.org/abs/1807.00459",
    level="update",
    goal="backdoor",
    knowledge=("all",),
    options={
        "memory": MEMORY,
        "mean": MEAN,
        "length": LENGTH,
        "enough": ENOUGH,
        "framed": Option(
            kind=int,
            default=0,
            low=0,
            high=10_000,
            summary="honest clients that a search begins by framing",
        ),
    },
    takes=("own", "generator", "scene"),
    searches=True,
    watch=watch,
    function=denoised_backdoor,
)
