"""Sign flip: send the opposite of an honest update."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attacks.attack import Attack, Option
from attacks.statistics import mean, repeat
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor


def sign_flip(
    honest: Tensor,
    *,
    num_attackers: int,
    own: Tensor | None = None,
    scale: float = 1.0,
    of: str | None = None,
) -> Tensor:
    """Send an honest update with its sign turned and its length scaled.

    ``-scale * own_i`` for attacker i, or ``-scale * mean(honest)`` for all of them. The literature
    has both: the first needs no knowledge of others, the second equals IPM at
    ``epsilon = scale``. Hurts the mean, mildly while the attackers are few; most rules with a
    breakdown point hold.

    Args:
        honest: The updates the attackers see, shape (h, d), floating point.
        num_attackers: How many rows to craft.
        own: What each attacker would have sent honestly, shape (num_attackers, d).
        scale: Length of the flipped update relative to the honest one.
        of: "own" or "mean". By default "own" when ``own`` is given, else "mean".

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``.

    Raises:
        ValueError: If ``of`` is "own" without ``own``, is unknown, or a view is malformed.

    Source:
        Li et al. 2019 (RSA), sign-flipping attack, https://arxiv.org/abs/1811.03761
    """
    check_view(honest, num_attackers=num_attackers, own=own)
    if of not in (None, "own", "mean"):
        raise ValueError(f"sign_flip.of needs 'own' or 'mean': got {of!r}")
    if of == "own" and own is None:
        raise ValueError(
            "sign_flip of=own needs what each attacker would have sent: got own=None; "
            "pass own, or set of=mean"
        )
    if own is None or of == "mean":
        return repeat(-scale * mean(honest), like=honest, times=num_attackers)
    return (-scale * own.double()).to(own.dtype)


ATTACK = Attack(
    name="sign_flip",
    summary="the opposite of an honest update",
    source="Li et al. 2019 (RSA), https://arxiv.org/abs/1811.03761",
    level="update",
    goal="harm",
    knowledge=("own", "fellows", "all"),
    options={
        "scale": Option(
            kind=float, default=1.0, low=0.0, high=1e12, summary="length relative to honest"
        ),
        "of": Option(
            kind=str,
            default=None,
            choices=("own", "mean"),
            summary="the update to flip; default: the attacker's own if it has one, else the mean",
        ),
    },
    takes=("own",),
    function=sign_flip,
)
