"""ALIE with its strength searched for against the server's actual rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attacks.attack import Attack
from attacks.scene import Scene
from attacks.statistics import mean
from attacks.updates.line_search import EVALUATIONS, worst_rows
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor

_TWO = 2  # no standard deviation of one


def optimised_alie(
    honest: Tensor, *, num_attackers: int, scene: Scene, evaluations: int = 20
) -> Tensor:
    """Send ``mu - z * sigma`` with the z > 0 that moves the rule furthest.

    White-box: ``scene.defence`` is the rule itself, with its mixing and geometry. mu and sigma
    (ddof 1) are those of ``alie``, the sign is minus; peers search with plus, which is the mirror
    image and on honest rows without skew does the same harm. The search is
    ``line_search.line_search``, not the papers' doubling. What it maximises is the distance of one
    round's aggregate, not the loss after training. Three such attackers of ten, non-IID, move
    Krum, and the trimmed mean behind NNM, at least 1.5 times as far as honest ones in their place.

    If the attackers do not see the honest updates they cannot search; use ``alie``.

    Args:
        honest: The updates the attackers see, shape (h, d) with h >= 2.
        num_attackers: How many rows to craft.
        scene: With a defence.
        evaluations: How often the rule is tried.

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``.

    Raises:
        ValueError: If fewer than two updates are visible, there is no defence or it returns
            what is negative, NaN or infinite, or a view is malformed.

    Source:
        Shejwalkar, Houmansadr 2021 (AGR-tailored),
        https://www.ndss-symposium.org/ndss-paper/manipulating-the-byzantine-optimizing-model-poisoning-attacks-and-defenses-for-federated-learning/
    """
    check_view(honest, num_attackers=num_attackers)
    if len(honest) < _TWO:
        raise ValueError(
            "optimised_alie needs >= 2 visible updates for a standard deviation: "
            f"got {len(honest)}; widen what the attackers see or use optimised_ipm"
        )
    mu, sigma = mean(honest), honest.double().std(dim=0, correction=1)
    return worst_rows(
        lambda z: mu - z * sigma,
        scene=scene,
        like=honest,
        times=num_attackers,
        evaluations=evaluations,
    )


ATTACK = Attack(
    name="optimised_alie",
    summary="alie, its z searched for against the server's own rule",
    source=(
        "Shejwalkar, Houmansadr 2021, https://www.ndss-symposium.org/ndss-paper/"
        "manipulating-the-byzantine-optimizing-model-poisoning-attacks-and-defenses"
        "-for-federated-learning/"
    ),
    level="update",
    goal="harm",
    knowledge=("all",),
    options={"evaluations": EVALUATIONS},
    takes=("scene",),
    needs=("defence",),
    function=optimised_alie,
)
