"""Capture: a cluster of identical rows near the honest mean, which the rule takes as its centre."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attacks.attack import Attack
from attacks.scene import Scene
from attacks.updates.aimed import (
    LENGTH,
    MEAN,
    TOWARDS,
    behind_the_mean,
    capture_family,
    direction,
    made,
    searched_rows,
    span_of,
)
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor


def capture(
    honest: Tensor,
    *,
    num_attackers: int,
    scene: Scene,
    own: Tensor | None = None,
    generator: torch.Generator | None = None,
    towards: str = "own",
    mean: float = 1.0,
    length: float = 1.0,
) -> Tensor:
    """Send ``mean * mu + length * T`` from every attacker, mu being the visible mean.

    Identical rows have no variance among themselves. Rules that take weight from where the
    variance is, or give it to rows with near neighbours, favour such a cluster: three such rows of
    ten had 0.7 of the weight under CAF. T is the direction, of the honest median length. A search
    finds the two numbers that push the aggregate furthest along T under the server's own rule.

    Args:
        honest: The updates the attackers see, shape (h, d), floating point.
        num_attackers: How many rows to craft.
        scene: With ``search`` and ``span`` the search is made.
        own: What each attacker has trained, poisoned or not; needed of towards="own".
        generator: Draws the direction of "random", and the search.
        towards: "own", "against", "odd" or "random".
        mean: How much of the visible mean.
        length: How much of the direction.

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``, all alike.

    Raises:
        ValueError: If a view is malformed, or what a direction or a search needs is missing.

    Source:
        fedtune: a cluster tighter than honest clients ever are. Related: the collusion of
        Shejwalkar, Houmansadr 2021 (min-max), which stays within the honest spread.
    """
    check_view(honest, num_attackers=num_attackers, own=own)
    aim = direction("capture", honest, own, towards=towards, scene=scene, generator=generator)
    if scene.search is None:
        row = behind_the_mean(len(honest), mean, length)
        return made(row.repeat(num_attackers, 1), honest, aim)
    family = capture_family(len(honest), num_attackers)
    span = span_of("capture", scene, aim)
    return searched_rows(
        "capture", family, honest, aim, span=span, scene=scene, generator=generator
    )


ATTACK = Attack(
    name="capture",
    summary="identical rows behind the honest mean, so tight that the rule makes them its centre",
    source="fedtune; its kin: min-max of Shejwalkar, Houmansadr 2021, https://www.ndss-symposium.org/"
    "ndss-paper/manipulating-the-byzantine-optimizing-model-poisoning-attacks-and-defenses-for-"
    "federated-learning/",
    level="update",
    goal="harm",
    knowledge=("all",),
    options={"towards": TOWARDS, "mean": MEAN, "length": LENGTH},
    takes=("own", "generator", "scene"),
    searches=True,
    function=capture,
)
