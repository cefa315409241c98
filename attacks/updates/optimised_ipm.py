"""IPM with its length searched for against the server's actual rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attacks.attack import Attack
from attacks.scene import Scene
from attacks.statistics import mean
from attacks.updates.line_search import EVALUATIONS, worst_rows
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor


def optimised_ipm(
    honest: Tensor, *, num_attackers: int, scene: Scene, evaluations: int = 20
) -> Tensor:
    """Send ``-epsilon * mean(honest)`` with the epsilon > 0 that moves the rule furthest.

    White-box: ``scene.defence`` is the rule itself, with its mixing and geometry. The search is
    ``line_search.line_search``, not the papers' doubling. Three such attackers of ten, non-IID,
    move the geometric median behind NNM at least 1.5 times as far as honest ones in their place.

    If the attackers do not see the honest updates they cannot search; use ``ipm``.

    Args:
        honest: The updates the attackers see, shape (h, d), floating point.
        num_attackers: How many rows to craft.
        scene: With a defence.
        evaluations: How often the rule is tried.

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``.

    Raises:
        ValueError: If there is no defence or it returns what is negative, NaN or infinite, or a
            view is malformed.

    Source:
        Xie, Koyejo, Gupta 2020 (Fall of Empires), https://arxiv.org/abs/1903.03936, searched as in
        Shejwalkar, Houmansadr 2021 (AGR-tailored),
        https://www.ndss-symposium.org/ndss-paper/manipulating-the-byzantine-optimizing-model-poisoning-attacks-and-defenses-for-federated-learning/
    """
    check_view(honest, num_attackers=num_attackers)
    mu = mean(honest)
    return worst_rows(
        lambda epsilon: -epsilon * mu,
        scene=scene,
        like=honest,
        times=num_attackers,
        evaluations=evaluations,
    )


ATTACK = Attack(
    name="optimised_ipm",
    summary="ipm, its epsilon searched for against the server's own rule",
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
    function=optimised_ipm,
)
