"""Norm clipping with weak differential privacy: no update is longer than a radius."""

from __future__ import annotations

import torch

from aggregators.engine.gram import Gram, middle
from aggregators.engine.rule import Combination, Facts, Option, Rule
from aggregators.mixings.clipping import shrink


def norm_clip(
    gram: Gram, *, f: int, radius: float | None = None, noise: float = 0.0
) -> Combination:
    """Average all updates, each scaled down to the radius where it is longer.

    The paper sets the radius and the noise by hand, in the units of its models. Here the radius
    is the median norm unless given (of an even count the mean of the two middles), and the noise
    is a factor of the radius: its standard deviation on each coordinate is noise * radius.

    Args:
        gram: The clients' Gram.
        f: Clients that may be Byzantine, a count. Needs n >= 2f + 1, else they set the median;
            not used otherwise.
        radius: The longest norm, in the units of the updates; None for the median norm.
        noise: Standard deviation per coordinate, over the radius.

    Returns:
        Weights that sum to at most one. Facts: ``radius``, ``shrink`` (each client's factor).

    Raises:
        ValueError: If n < 2f + 1.

    Source:
        Sun, Kairouz, Suresh, McMahan 2019, https://arxiv.org/abs/1911.07963
    """
    n = gram.num_clients
    RULE.check_clients(n, f)
    norms = gram.norms()
    longest = middle(norms) if radius is None else radius
    factors = shrink(norms, longest)
    weights = torch.zeros(n + gram.num_extra, dtype=torch.float64)
    weights[:n] = factors / n
    facts: Facts = {"radius": longest, "shrink": factors.tolist()}
    return Combination(weights, facts, noise * longest)


RULE = Rule(
    name="norm_clip",
    summary="The average of all updates, each clipped to the median norm, with noise",
    source="Sun et al. 2019, https://arxiv.org/abs/1911.07963",
    condition="n >= 2f + 1",
    min_clients=lambda f: 2 * f + 1,
    kind="gram",
    function=norm_clip,
    options={
        "radius": Option("Longest norm; null is the median norm", float, None, 1e-30),
        "noise": Option("Noise per coordinate over the radius", float, 0.0, 0),
    },
    cost="n² d for the Gram, then n",
    kappa="unbounded, but f attackers move it by at most 2f/n radii",
    reading="The radius is the median norm unless given; noise is relative to the radius",
)
