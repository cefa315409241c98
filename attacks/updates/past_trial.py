"""Past the trial: the longest backdoor that does not raise the loss on server validation data."""

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
    """Send ``mean * mu + b * T``, b the greatest at which a proxy of the server's loss passes.

    A server that tries each round's aggregate on validation data undoes a step that raises the
    loss there. A backdoor need not raise it: rows without a trigger hardly change, and the honest
    mean lowers the loss by more than T raises it. The attackers know the distribution of the
    server validation data, but not its rows. They compute the server's aggregate with the crafted
    rows (the plain mean with the honest updates, if they do not know the rule), try it on their
    own rows, and take the greatest b, up to 4, at which the loss is at most that of no step, less
    ``margin``. T is the effect of their poisoned training (``denoised_backdoor``).

    An outer optimizer with momentum moves the model further than the aggregate that is tried, and
    the attackers do not hold what a rule adds from earlier rounds (a momentum, a centre); the
    margin has to allow for both. With a search, b may be shortened if the rule then lets more
    through.

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


def _mean_with(crafted: Tensor, num_honest: int) -> Tensor:
    """The plain mean of honest and crafted rows, as coefficients over the points."""
    total = crafted.sum(dim=0)
    total[:num_honest] += 1.0
    return total / (num_honest + len(crafted))


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
    summary="a denoised backdoor, as long as the loss on data like the server's does not rise",
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
