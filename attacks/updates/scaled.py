"""Model replacement: an update scaled up until it outweighs the average."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attacks.attack import Attack, Option
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor


def scaled(
    honest: Tensor,
    *,
    num_attackers: int,
    own: Tensor | None,
    gamma: float | None = None,
    num_clients: int | None = None,
) -> Tensor:
    """Send ``gamma * own_i`` from attacker i, its own update scaled up.

    With the default, n / num_attackers, the plain mean of the attackers' own updates arrives in the
    server's mean at full weight, and the honest part comes on top: this is the paper's
    gamma = n / eta at an outer rate eta of 1, shared among the attackers that know of each other.
    The update that the attacker trained is scaled. On honest data that overshoots; on data that an
    attack of level "data" poisoned, it would be the paper's backdoor. Hurts the mean; any bound on
    the norm stops it.

    An attacker that sees only its own update (view "own") counts itself alone and takes gamma = n.

    Args:
        honest: The updates the attackers see, shape (h, d); looked at only to count them.
        num_attackers: How many rows to craft.
        own: What each attacker would have sent honestly, shape (num_attackers, d); required.
        gamma: Factor on the update; by default ``num_clients / num_attackers``.
        num_clients: n in gamma, not looked at when ``gamma`` is given. By default
            h + num_attackers, which is right only if ``honest`` is every honest client.

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``.

    Raises:
        ValueError: If ``own`` is missing, there are fewer clients than attackers, or a view is
            malformed.

    Source:
        Bagdasaryan et al. 2020, Equation 3, https://arxiv.org/abs/1807.00459
    """
    check_view(honest, num_attackers=num_attackers, own=own)
    if own is None:
        raise ValueError(
            "scaled needs what each attacker would have sent: got own=None; pass own, or use ipm"
        )
    if gamma is None:
        n = len(honest) + num_attackers if num_clients is None else num_clients
        if n < num_attackers:
            raise ValueError(
                f"scaled needs num_clients >= num_attackers: got {n} clients, {num_attackers} "
                "attackers; count the attackers among the clients, or set gamma"
            )
        gamma = n / num_attackers
    return (gamma * own.double()).to(own.dtype)


ATTACK = Attack(
    name="scaled",
    summary="the attacker's own update, scaled up to replace the model",
    source="Bagdasaryan et al. 2020 (model replacement), https://arxiv.org/abs/1807.00459",
    level="update",
    goal="harm",
    knowledge=("own", "fellows", "all"),
    options={
        "gamma": Option(
            kind=float,
            default=None,
            low=0.0,
            high=1e12,
            summary="factor on the update; None is clients / attackers",
        ),
        "num_clients": Option(
            kind=int,
            default=None,
            low=1,
            high=1e9,
            summary="n in gamma; None is visible + attackers",
        ),
    },
    takes=("own",),
    function=scaled,
)
