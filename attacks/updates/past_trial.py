"""Past the trial: a lie with less noise than honest work does better on the server's rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attacks.attack import Attack, Option
from attacks.scene import Scene
from attacks.search import Family
from attacks.updates.aimed import MEAN, behind_the_mean, made, searched_rows, span_of
from attacks.updates.denoised_backdoor import ENOUGH, MEMORY, learnt
from attacks.view import check_view

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
    expelled: int | None = None,
    enough: float = 1.0,
) -> Tensor:
    """Send ``mean * mu + b * T``, b as large as a trial on rows like the server's lets through.

    A server that tries each reply on rows of its own leaves out those of highest loss. One honest
    update is mostly the noise of its own rows; the mean of all honest updates, with a lie behind
    it, has less, and a lower loss. So honest clients are left out in the attackers' stead, and the
    same f bears on the few that stay. The attackers know the distribution of the server's rows,
    not the rows: they try the lie on rows of their own, and take the greatest b, up to 4, at which
    its loss is below that of the ``expelled`` worst honest updates, less ``margin``. T is what
    their training taught them (``denoised_backdoor``).

    With a search, that b may be shortened if the rule then lets more through. The trial is taken
    to have left out the honest updates that do worst on the attackers' rows.

    Args:
        honest: The updates the attackers see, shape (h, d), floating point.
        num_attackers: How many rows to craft.
        scene: With ``loss``; its memory keeps the direction.
        own: What each attacker has trained, poisoned or not; required.
        generator: Draws the search.
        memory: How much of the direction's past stays, in [0, 1).
        mean: How much of the visible mean.
        margin: How far below, of the loss.
        expelled: Honest updates to be left out by the trial; None: as many as there are attackers.
        enough: The push that is aimed at, in honest lengths.

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``, all alike; the
        mean in front alone where even that has a higher loss.

    Raises:
        ValueError: If ``own`` or the loss is missing, a view is malformed, or the search lacks the
            rule.

    Source:
        fedtune, against trials on server data such as Zeno: Xie, Koyejo, Gupta 2019,
        https://arxiv.org/abs/1805.10032
    """
    check_view(honest, num_attackers=num_attackers, own=own)
    if scene.loss is None:
        raise ValueError("past_trial needs scene.loss: got None; hand over a model to try rows on")
    loss, h = scene.loss, len(honest)
    aim = learnt("past_trial", honest, own, scene=scene, memory=memory)
    count = min(num_attackers if expelled is None else expelled, h - 1)
    losses = [loss(row) for row in honest]
    order = sorted(range(h), key=lambda k: (-losses[k], k))
    bar = losses[order[count - 1]] - margin if count else float("inf")

    def passes(length: float) -> bool:
        row = made(behind_the_mean(h, mean, length)[None], honest, aim)[0]
        return loss(row) < bar

    longest = longest_passing(passes, most=min(_LONGEST, enough * (h + num_attackers)))
    if scene.search is None:
        row = behind_the_mean(h, mean, longest)
        return made(row.repeat(num_attackers, 1), honest, aim)
    family = Family(
        rows=lambda p: behind_the_mean(h, mean, float(p[0].clamp(0.0, longest))).repeat(
            num_attackers, 1
        ),
        starts=torch.tensor([[part * longest] for part in _PARTS], dtype=torch.float64),
    )
    span = span_of("past_trial", scene, aim)
    return searched_rows(
        "past_trial", family, honest, aim, span=span, scene=scene, generator=generator,
        enough=enough, without=order[:count],
    )  # fmt: skip


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
    summary="a denoised lie that does better on rows like the server's than noisy honest updates",
    source="fedtune, against trials such as Xie, Koyejo, Gupta 2019 (Zeno), "
    "https://arxiv.org/abs/1805.10032",
    level="update",
    goal="backdoor",
    knowledge=("all",),
    options={
        "memory": MEMORY,
        "mean": MEAN,
        "margin": Option(
            kind=float, default=0.0, low=0.0, high=1e6, summary="how far below the bar, of the loss"
        ),
        "expelled": Option(
            kind=int,
            default=None,
            low=0,
            high=10_000,
            summary="honest updates that the trial is to leave out; default: as many as attackers",
        ),
        "enough": ENOUGH,
    },
    takes=("own", "generator", "scene"),
    needs=("loss",),
    searches=True,
    watch=watch,
    function=past_trial,
)
