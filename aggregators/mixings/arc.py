"""Adaptive robust clipping: the longest rows are cut to the next longest."""

from __future__ import annotations

import torch

from aggregators.engine.gram import Gram
from aggregators.engine.rule import Facts, Mixture, Rule
from aggregators.mixings.clipping import shrink


def arc(gram: Gram, *, f: int) -> Mixture:
    """Clip the k = floor(2 (f/n) (n-f)) longest rows to the norm of the next longest.

    k is counted in whole numbers: at n = 242, f = 33 it is 57, where a product of floats says 56.
    As k >= f, the cut is never above the longest honest norm.

    Args:
        gram: The clients' Gram.
        f: Clients that may be Byzantine, a count. Needs n >= 2f + 1.

    Returns:
        The (n, n) diagonal matrix of factors. Facts: ``clipped`` (k), ``radius``, ``shrink``.

    Raises:
        ValueError: If n < 2f + 1.

    Source:
        Allouah et al. 2025 (ARC), https://arxiv.org/abs/2405.14432
    """
    n = gram.num_clients
    RULE.check_clients(n, f)
    norms = gram.norms()
    k = 2 * f * (n - f) // n
    radius = float(norms.sort(descending=True).values[k])
    factors = shrink(norms, radius)
    facts: Facts = {"clipped": float(k), "radius": radius, "shrink": factors.tolist()}
    return Mixture(torch.diag(factors), facts)


RULE = Rule(
    name="arc",
    summary="Clip the floor(2f(n-f)/n) longest updates to the norm of the next longest",
    source="Allouah et al. 2025, https://arxiv.org/abs/2405.14432",
    condition="n >= 2f + 1",
    min_clients=lambda f: 2 * f + 1,
    kind="mixing",
    function=arc,
    cost="n² d for the Gram, then n²",
    kappa="adds at most 2f/(n-2f) to the kappa of the rule after it",
    reading="The count is floor(2f(n-f)/n) in whole numbers, not of a product of floats",
)
