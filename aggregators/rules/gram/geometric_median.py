"""Geometric median: the point with the least sum of distances to the updates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from aggregators.engine.gram import Gram, middle
from aggregators.engine.rule import Combination, Option, Rule

if TYPE_CHECKING:
    from torch import Tensor


def _robust_start(gram: Gram, shares: Tensor) -> Tensor:
    """Weigh each client by its share times 1/m², m its median distance to all, itself too: (p,).

    With f < n/2, a row at 1e30 has m near 1e30 and does not move the start, while from the mean
    Weiszfeld comes back from there by a factor f/(n-f) a step only. Nothing is selected, so
    equal rows count alike and client order does not matter. Clients with m = 0 stand on one point,
    with more than half of all: they share the weight.
    """
    n = gram.num_clients
    ordered = gram.squared_distances().sqrt().sort(dim=1).values
    medians = (ordered[:, (n - 1) // 2] + ordered[:, n // 2]) / 2
    least = medians.min()
    pulls = (least / medians).square() if least > 0 else (medians == 0).to(torch.float64)
    weights = torch.zeros(n + gram.num_extra, dtype=torch.float64)
    weights[:n] = pulls * shares / (pulls * shares).sum()
    return weights


def geometric_median(
    gram: Gram,
    *,
    f: int,
    max_steps: int = 32,
    nu: float = 1e-6,
    tolerance: float = 1e-8,
    shares: Tensor | None = None,
) -> Combination:
    """Minimise the sum of distances by smoothed Weiszfeld steps on the Gram matrix.

    Each step weighs a client by 1 / max(floor, its distance to the point). Starts at the mean
    weighted by 1/m², m a client's median distance to all clients. The floor and the stop are
    relative to the scale, the median distance to the start, so that small updates are treated
    like large ones. At scale 0 the start is the answer: more than half of the clients stand on it.
    Where the minimum is not one point (an even count on a line), the start decides.

    Args:
        gram: The clients' Gram.
        f: Clients that may be Byzantine, a count. Needs n >= 2f + 1; not used otherwise.
        max_steps: Most Weiszfeld steps.
        nu: The floor of a distance, relative to the scale.
        tolerance: Stops at a step no longer than this, relative to the scale.
        shares: The owner's weights of the distances, summing to one, shape (n,); all alike if None.

    Returns:
        Weights that sum to one. Facts: ``steps``, ``scale``.

    Raises:
        ValueError: If n < 2f + 1.

    Source:
        Pillutla, Kakade, Harchaoui 2022 (smoothed Weiszfeld), https://arxiv.org/abs/1912.13445
        Chen, Su, Xu 2017, https://arxiv.org/abs/1705.05491
    """
    n = gram.num_clients
    RULE.check_clients(n, f)
    own = torch.full((n,), 1 / n, dtype=torch.float64) if shares is None else shares
    point = gram.affine(_robust_start(gram, own))
    distances = gram.distances_to(point)
    scale = middle(distances)
    steps, moved = 0, torch.inf
    while scale > 0 and steps < max_steps and moved > tolerance * scale:
        pulls = own / distances.clamp(min=nu * scale)
        following = torch.zeros_like(point)
        following[:n] = pulls / pulls.sum()
        moved = gram.length(following - point)
        point, steps = following, steps + 1
        distances = gram.distances_to(point)
    return Combination(point[:-1], {"steps": float(steps), "scale": scale})


RULE = Rule(
    name="geometric_median",
    summary="The point with the least sum of distances to the updates",
    source="Pillutla et al. 2022, https://arxiv.org/abs/1912.13445",
    condition="n >= 2f + 1",
    min_clients=lambda f: 2 * f + 1,
    kind="gram",
    function=geometric_median,
    cost="n² d for the Gram, whatever the number of steps",
    kappa="4 (1 + f/(n-2f))²",
    bound=lambda n, f: 4 * (1 + f / (n - 2 * f)) ** 2,
    reading="smoothed Weiszfeld; floor and stop relative to the median distance",
    takes_shares=True,
    options={
        "max_steps": Option("Most Weiszfeld steps", int, 32, 1, 100_000),
        "nu": Option("Floor of a distance, relative to the median distance", float, 1e-6, 1e-9, 1),
        "tolerance": Option("Stop at a step this short, same scale", float, 1e-8, 0, 1),
    },
)
