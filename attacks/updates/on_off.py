"""On and off: honest updates for some rounds, then an attack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attacks.attack import Attack, Option
from attacks.scene import Scene
from attacks.statistics import mean, repeat
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor


def on_off(
    honest: Tensor,
    *,
    num_attackers: int,
    scene: Scene,
    own: Tensor | None,
    honest_rounds: int = 2,
    epsilon: float = 1.0,
    period: int = 0,
) -> Tensor:
    """Send the own honest update for some rounds, then ``-epsilon * mean(honest)``.

    With a period of 0 the attack stays on. With a period of p it is on for p rounds, off for p
    rounds, and so on. It aims at rules that carry trust over rounds, and at those that carry a
    client's momentum: trust gained in honest rounds is spent on the attack. It depends on the
    number of the round alone, so a round tried again is the same.

    Args:
        honest: The updates the attackers see, shape (h, d), floating point.
        num_attackers: How many rows to craft.
        scene: Tells the round.
        own: What each attacker would have sent honestly, shape (num_attackers, d); required.
        honest_rounds: Rounds to begin with, counted from the run's first.
        epsilon: Length of the step against the mean, relative to it.
        period: Rounds on and rounds off; 0 stays on.

    Returns:
        The rows, shape (num_attackers, d), dtype and device of ``honest``.

    Raises:
        ValueError: If ``own`` is missing or a view is malformed.

    Source:
        On-off attacks on trust, Sun et al. 2006 (Information theoretic framework of trust
        modeling), https://doi.org/10.1109/JSAC.2005.861389; the step is that of Xie, Koyejo, Gupta
        2020, https://arxiv.org/abs/1903.03936
    """
    check_view(honest, num_attackers=num_attackers, own=own)
    if own is None:
        raise ValueError("on_off needs what each attacker would have sent: got own=None; pass own")
    since = scene.round_ - 1 - honest_rounds
    if since < 0 or (period and since // period % 2 == 1):
        return own.detach().clone()
    return repeat(-epsilon * mean(honest), like=honest, times=num_attackers)


ATTACK = Attack(
    name="on_off",
    summary="honest for some rounds, then a step against the mean of the visible updates",
    source="Sun et al. 2006, https://doi.org/10.1109/JSAC.2005.861389; "
    "Xie, Koyejo, Gupta 2020, https://arxiv.org/abs/1903.03936",
    level="update",
    goal="harm",
    knowledge=("own", "fellows", "all"),
    options={
        "honest_rounds": Option(
            kind=int, default=2, low=0, high=1e9, summary="rounds to begin with"
        ),
        "epsilon": Option(
            kind=float, default=1.0, low=0.0, high=1e12, summary="length relative to the mean"
        ),
        "period": Option(
            kind=int, default=0, low=0, high=1e9, summary="rounds on and rounds off; 0 stays on"
        ),
    },
    takes=("own", "scene"),
    function=on_off,
)
