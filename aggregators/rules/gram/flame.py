"""FLAME: the majority's cluster of directions, clipped to the median norm, and noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from aggregators.engine.gram import Gram, middle
from aggregators.engine.rule import Combination, Facts, Option, Rule
from aggregators.engine.ties import TIE
from aggregators.mixings.clipping import shrink
from aggregators.rules.gram.cosine import cosine_distances

if TYPE_CHECKING:
    from torch import Tensor


def flame(gram: Gram, *, f: int, noise: float = 0.0) -> Combination:
    """Average the clients in the majority's cluster, each clipped to the median norm of all.

    Distances are one minus the cosine of the updates; the paper says models. The noise has
    standard deviation ``noise`` times the median norm on each coordinate. For (epsilon, delta)
    of differential privacy of the clipped updates the paper takes
    noise = sqrt(2 ln(1.25/delta)) / epsilon; its experiments use far less.

    Args:
        gram: The clients' Gram.
        f: Clients that may be Byzantine, a count. Needs n >= 2f + 1; not used otherwise.
        noise: The paper's lambda.

    Returns:
        Weights that sum to at most one. Facts: ``accepted`` (indices), ``reach`` (the cosine
        distance that holds the cluster together), ``radius``, ``shrink``.

    Raises:
        ValueError: If n < 2f + 1.

    Source:
        Nguyen et al. 2022, Algorithm 1, https://arxiv.org/abs/2101.02281
    """
    n = gram.num_clients
    RULE.check_clients(n, f)
    norms = gram.norms()
    accepted, reach = majority_cluster(cosine_distances(gram))
    radius = middle(norms)
    factors = shrink(norms, radius)
    weights = torch.zeros(n + gram.num_extra, dtype=torch.float64)
    weights[:n] = torch.where(accepted, factors / accepted.sum(), 0.0)
    facts: Facts = {
        "accepted": accepted.nonzero().flatten().to(torch.float64).tolist(),
        "reach": reach,
        "radius": radius,
        "shrink": factors.tolist(),
    }
    return Combination(weights, facts, noise * radius)


def majority_cluster(distances: Tensor) -> tuple[Tensor, float]:
    """Find HDBSCAN's cluster for a least size of floor(n/2) + 1 and one sample.

    With one sample the core distance is at most the nearest neighbour's, so that HDBSCAN's
    mutual reachability is the distance itself, and its hierarchy is single linkage. Walking it
    from the root, two parts can never both hold more than half: the larger goes on as the root
    cluster, the smaller falls out of it, and when neither is large enough all that is left falls
    out at once. So no cluster but the root exists. It is taken (``allow_single_cluster``, without
    which FLAME would accept no client), and its members are the points that stay longest: those of
    the first single-linkage component to hold more than half, with all that join it at the same
    distance, to 1e-9 of it.

    Args:
        distances: Between the clients, shape (n, n), symmetric.

    Returns:
        Whether each client is in the cluster, shape (n,), and the distance that holds it together.
    """
    size, reach = len(distances) // 2 + 1, torch.inf
    labels = torch.arange(len(distances))
    largest = labels == 0
    for length, inside, outside in sorted(_spanning_tree(distances)):
        if length > reach * (1 + TIE):
            break
        labels[labels == labels[outside].item()] = labels[inside].item()
        together = labels == labels[inside]
        if int(together.sum()) >= size:
            largest, reach = together, min(reach, length)
    return largest, 0.0 if len(distances) == 1 else reach


def _spanning_tree(distances: Tensor) -> list[tuple[float, int, int]]:
    """Grow a least spanning tree from client 0; its edges as (distance, inside, outside)."""
    nearest, towards = distances[0].clone(), torch.zeros(len(distances), dtype=torch.int64)
    nearest[0] = torch.inf
    edges = []
    outside = torch.ones(len(distances), dtype=torch.bool)
    outside[0] = False
    while outside.any():
        new = int(torch.where(outside, nearest, torch.inf).argmin())
        edges.append((float(nearest[new]), int(towards[new]), new))
        outside[new] = False
        closer = distances[new] < nearest
        nearest, towards = nearest.where(~closer, distances[new]), towards.where(~closer, new)
    return edges


RULE = Rule(
    name="flame",
    summary="The majority's cluster of directions, clipped to the median norm, with noise",
    source="Nguyen et al. 2022, https://arxiv.org/abs/2101.02281",
    condition="n >= 2f + 1",
    min_clients=lambda f: 2 * f + 1,
    kind="gram",
    function=flame,
    options={"noise": Option("Noise per coordinate over the median norm", float, 0.0, 0)},
    cost="n² d for the Gram, then n²",
    kappa="unbounded: a short attacker in the honest direction is accepted",
    reading="HDBSCAN of one minus the cosine of the updates, least size floor(n/2) + 1, one "
    "sample, a single cluster allowed; no noise unless asked for",
)
