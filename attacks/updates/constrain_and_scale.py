"""Constrain and scale: a poisoned update that looks like the others and is as long as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attacks.attack import Attack, Option
from attacks.statistics import mean
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor


def constrain_and_scale(
    honest: Tensor,
    *,
    num_attackers: int,
    own: Tensor | None,
    alpha: float = 0.7,
    bound: float = 1.0,
) -> Tensor:
    """Mix the attacker's own update towards the visible mean, then bring it to a norm bound.

    ``X = alpha * own_i + (1 - alpha) * mean(honest)``, sent as ``gamma * X`` with
    ``gamma = S / ||X||`` and ``S = bound *`` the median norm of the visible updates (of an even
    count the average of the middle two). It is of use together with poisoned data: alone it
    sends an honest update at another length.

    The paper trains on ``alpha * L_class + (1 - alpha) * L_ano``, L_ano being what the anomaly
    detector measures, and separately gives train-and-scale, which needs no loss: scale to the
    bound S that the detector permits. This is the second, with the first's pull taken on the
    finished update: at the squared distance to the mean as L_ano, and a quadratic loss of unit
    curvature, the mixture is the minimum. The default of alpha is ours; the paper names none.

    Args:
        honest: The updates the attackers see, shape (h, d), floating point.
        num_attackers: How many rows to craft.
        own: What each attacker has trained, poisoned or not, shape (num_attackers, d); required.
        alpha: Weight of the attacker's aim against its disguise, 1 is no disguise.
        bound: S as a multiple of the median norm.

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``. A mixture that
        is zero has no direction to scale and stays zero.

    Raises:
        ValueError: If ``own`` is missing or a view is malformed.

    Source:
        Bagdasaryan et al. 2020 (How to backdoor federated learning), section 4,
        https://arxiv.org/abs/1807.00459
    """
    check_view(honest, num_attackers=num_attackers, own=own)
    if own is None:
        raise ValueError(
            "constrain_and_scale needs what each attacker has trained: got own=None; pass own"
        )
    mixed = alpha * own.double() + (1 - alpha) * mean(honest)
    permitted = bound * torch.quantile(honest.double().norm(dim=1), 0.5)
    norms = mixed.norm(dim=1, keepdim=True)
    gamma = torch.where(norms > 0, permitted / norms, 0.0)
    return (gamma * mixed).to(honest.dtype)


ATTACK = Attack(
    name="constrain_and_scale",
    summary="the own, poisoned update, mixed towards the mean and brought to a norm bound",
    source="Bagdasaryan et al. 2020, https://arxiv.org/abs/1807.00459",
    level="update",
    goal="backdoor",
    knowledge=("fellows", "all"),
    options={
        "alpha": Option(
            kind=float, default=0.7, low=0.0, high=1.0, summary="weight of the own update"
        ),
        "bound": Option(
            kind=float,
            default=1.0,
            low=0.0,
            high=1e12,
            summary="length, in median norms of the visible updates",
        ),
    },
    takes=("own",),
    function=constrain_and_scale,
)
