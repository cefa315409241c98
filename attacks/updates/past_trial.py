"""Past the trial: a lie as large as the loss on the server's rows does not feel."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from attacks.attack import Attack, Option
from attacks.scene import Scene
from attacks.search import Family
from attacks.updates.aimed import MEAN, behind_the_mean, made, searched_rows, span_of
from attacks.updates.denoised_backdoor import ENOUGH, MEMORY, learnt
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor

_HALVINGS = 5
_LONGEST = 4.0
_PARTS = (0.25, 0.4, 0.55, 0.7, 0.85, 1.0)


def past_trial(
    honest: Tensor,
    *,
    num_attackers: int,
    scene: Scene,
    own: Tensor | None,
    generator: torch.Generator | None = None,
    memory: float = 0.7,
    mean: float = 1.0,
    margin: float = 0.0,
    enough: float = 1.0,
) -> Tensor:
    """Send ``mean * mu + b * T``, b as large as keeps the loss on rows like the server's down.

    A server that tries each round's aggregate on rows of its own undoes a step that raises their
    loss. A backdoor need not: rows without a trigger hardly feel it, and the honest mean in front
    brings the loss down by more than T brings it up. The attackers know the distribution of the
    server's rows, not the rows: they make of the lie what the server's rule makes of it (its plain
    mean with the honest updates, where they do not know the rule), try that on rows of their own,
    and take the greatest b, up to 4, at which the loss is at most that of no step, less
    ``margin``. T is what their training taught them (``denoised_backdoor``).

    An outer optimizer that remembers moves the model further than the aggregate that is tried, and
    what a rule adds from before (a momentum, a centre) is no row that the attackers hold: of both
    the margin has to take account. With a search, that b may be shortened if the rule then lets
    more through.

    Args:
        honest: The updates the attackers see, shape (h, d), floating point.
        num_attackers: How many rows to craft.
        scene: With ``loss``; its memory keeps the direction.
        own: What each attacker has trained, poisoned or not; required.
        generator: Draws the search.
        memory: How much of the direction's past stays, in [0, 1).
        mean: How much of the visible mean.
        margin: How far below the loss of no step; below 0, what the server is known to tolerate.
        enough: The push that is aimed at, in honest lengths.

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``, all alike; the
        mean in front alone where no b passes.

    Raises:
        ValueError: If ``own`` or the loss is missing, a view is malformed, or the search lacks the
            rule.

    Source:
        fedtune, against trials of the aggregate such as Andreina et al. 2021 (BaFFLe),
        https://arxiv.org/abs/2011.02167
    """
    check_view(honest, num_attackers=num_attackers, own=own)
    if scene.loss is None:
        raise ValueError("past_trial needs scene.loss: got None; hand over a model to try rows on")
    loss, h = scene.loss, len(honest)
    aim = learnt("past_trial", honest, own, scene=scene, memory=memory)
    span = None if scene.span is None else scene.span(aim[None])
    bar = loss(torch.zeros_like(honest[0])) - margin

    def rows(length: float) -> Tensor:
        return behind_the_mean(h, mean, length).repeat(num_attackers, 1)

    def passes(length: float) -> bool:
        step = _mean_with(rows(length), h) if span is None else span.confirm(rows(length))
        return loss(made(step[None, : h + 1], honest, aim)[0]) <= bar

    longest = longest_passing(passes, most=min(_LONGEST, enough * (h + num_attackers)))
    if scene.search is None:
        return made(rows(longest), honest, aim)
    family = Family(
        rows=lambda p: rows(float(p[0].clamp(0.0, longest))),
        starts=torch.tensor([[part * longest] for part in _PARTS], dtype=torch.float64),
    )
    span = span_of("past_trial", scene, aim)
    return searched_rows(
        "past_trial", family, honest, aim, span=span, scene=scene, generator=generator,
        enough=enough,
    )  # fmt: skip


def _mean_with(lies: Tensor, num_honest: int) -> Tensor:
    """The plain mean of honest updates and lies, as coefficients over them and the direction."""
    total = lies.sum(dim=0)
    total[:num_honest] += 1.0
    return total / (num_honest + len(lies))


def longest_passing(passes: Callable[[float], bool], *, most: float) -> float:
    """The greatest length that passes, to 1/32 of ``most``; 0 where none does.

    A loss need not rise with the length; of lengths between one that passes and one that does not
    the middle is tried, so that what is returned has passed.
    """
    if passes(most):
        return most
    low, high = 0.0, most
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if passes(middle) else (low, middle)
    return low


def watch(
    honest: Tensor, *, scene: Scene, own: Tensor | None, memory: float = 0.7, **_: object
) -> None:
    """Go on learning the direction in a round without attack."""
    learnt("past_trial", honest, own, scene=scene, memory=memory)


ATTACK = Attack(
    name="past_trial",
    summary="a denoised lie, no larger than keeps the loss on rows like the server's from rising",
    source="fedtune, against trials of the aggregate such as Andreina et al. 2021 (BaFFLe), "
    "https://arxiv.org/abs/2011.02167",
    level="update",
    goal="backdoor",
    knowledge=("all",),
    options={
        "memory": MEMORY,
        "mean": MEAN,
        "margin": Option(
            kind=float,
            default=0.0,
            low=-1e6,
            high=1e6,
            summary="how far the loss is to stay below that of no step; below 0: what is tolerated",
        ),
        "enough": ENOUGH,
    },
    takes=("own", "generator", "scene"),
    needs=("loss",),
    searches=True,
    watch=watch,
    function=past_trial,
)
