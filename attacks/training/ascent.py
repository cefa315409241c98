"""Ascent: gradient ascent on the honest rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attacks.attack import Attack, Option

if TYPE_CHECKING:
    from torch import Tensor


def ascent(loss: Tensor, *, ceiling: float, **_: object) -> Tensor:
    """Minimise minus the loss, up to a ceiling.

    Beyond the ceiling there is no gradient, so that the steps end before the numbers do; within
    it, the trainer's own clipping and optimizer bound a step as they do an honest one.

    Used alone, the client sends the update that this training gives. As the ``poison`` of an
    attack on updates with the view "all", it begins at the server's expected next model, the
    anchor plus the honest mean, and trains in ``bursts`` of a round's local steps, brought back to
    ``reach`` honest lengths before each: the result is a direction that does harm there, at that
    length. Of three attackers on nano in round 5, one burst raised the loss from 3.34 to
    3.52 at one honest length, five bursts to 8.2.

    Args:
        loss: Of a batch, a scalar with a gradient.
        ceiling: In the loss's own unit, nats per token for SFT.

    Returns:
        What is minimised.

    Source:
        Gradient ascent on local data as a model poisoning: Jagielski et al. 2018,
        https://arxiv.org/abs/1804.00308, by the trainer's own steps.
    """
    return -loss.clamp(max=ceiling)


ATTACK = Attack(
    name="ascent",
    summary="local training that climbs the loss on honest rows",
    source="after Jagielski et al. 2018, https://arxiv.org/abs/1804.00308",
    level="training",
    goal="harm",
    options={
        "ceiling": Option(
            kind=float, default=30.0, low=1e-6, high=1e6, summary="loss beyond which it stops"
        ),
        "bursts": Option(
            kind=int,
            default=5,
            low=1,
            high=1000,
            summary="as a poison with the view all: how often the attackers train in a round",
        ),
        "reach": Option(
            kind=float,
            default=0.6,
            low=0.0,
            high=1e6,
            summary="likewise: how far from the honest mean a burst begins, in honest lengths",
        ),
    },
    function=ascent,
)
