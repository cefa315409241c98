"""FoolsGold: clients with histories that point the same way lose their weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from aggregators.engine.gram import Gram
from aggregators.engine.rule import Combination, Facts, Option, Rule
from aggregators.rules.gram.cosine import cosine_distances

if TYPE_CHECKING:
    from torch import Tensor


def foolsgold(gram: Gram, *, f: int, kappa: float = 1.0) -> Combination:
    """Weigh each client by how much its sum of updates differs from all others'.

    Sybils serve one aim, so their sums of updates point one way; honest clients with different data
    differ. By the paper: each client's largest cosine v_i to another; cosines pardoned
    by v_i / v_j where v_j is larger; one minus the largest left, over the largest of these; then
    kappa * (logit + 0.5), cut to [0, 1].

    Cosines below zero count as zero: the pardon would turn their sign, and a client that resembles
    no other could lose its weight. The paper's weights on single features are left out. It adds the
    weighted updates up; here the weights are brought to sum to one, so that the scale stays.

    Its weakness is its assumption. Honest clients that agree look like sybils: where all point the
    same way, no client has weight and the aggregate is zero. A single attacker, or attackers that
    differ, are trusted most, at any length.

    Args:
        gram: The clients' Gram, with each client's sum of earlier updates as n extra points.
        f: Not used: any number of sybils is one direction.
        kappa: Steepness of the logit; the larger, the nearer the weights are to 0 and 1.

    Returns:
        Weights that sum to one, or all zero. A client with a sum of zero has none. Facts:
        ``trust`` (before they are brought to sum to one), ``likeness`` (the largest cosine).

    Raises:
        ValueError: If the Gram has not n extra points.

    Source:
        Fung, Yoon, Beschastnikh 2020, Algorithm 1, https://arxiv.org/abs/1808.04866
    """
    n = gram.num_clients
    RULE.check_clients(n, f)
    if gram.num_extra != n:
        raise ValueError(
            f"foolsgold needs n={n} extra points, the clients' histories: got {gram.num_extra}; "
            "compute the Gram with extra=[history of each client]"
        )
    summed = _with_history(gram)
    apart = cosine_distances(summed).clamp(max=1).fill_diagonal_(1)
    trust = _trust(apart, summed.norms() > 0, kappa)
    weights = torch.zeros(2 * n, dtype=torch.float64)
    if trust.any():
        weights[:n] = trust / trust.sum()
    likeness = 1 - apart.min(dim=1).values
    facts: Facts = {"trust": trust.tolist(), "likeness": likeness.tolist()}
    return Combination(weights, facts)


def _with_history(gram: Gram) -> Gram:
    """Add to each client its history; one that is zero is left out, for its rounding."""
    n = gram.num_clients
    points = Gram(gram.centred, 2 * n)
    known = (points.norms()[n:] > 0).to(torch.float64)
    return points.mixed(torch.cat([torch.eye(n, dtype=torch.float64), torch.diag(known)], dim=1))


def _trust(apart: Tensor, directed: Tensor, kappa: float) -> Tensor:
    """From distances 1 - cos, 1 on the diagonal, to weights in [0, 1], shape (n,).

    All in distances, which keep their digits where cosines are near one: with d_i the least of
    row i, v_i / v_j = 1 - pardon, and 1 - cos * (1 - pardon) = distance + pardon * (1 - distance).
    """
    least = apart.min(dim=1).values
    more_alike = least[None, :] < least[:, None]
    pardon = torch.where(more_alike, (least[:, None] - least) / (1 - least), 0.0)
    unlike = (apart + pardon * (1 - apart)).min(dim=1).values
    unlike = torch.where(directed, unlike, 0.0)
    if not unlike.any():
        return unlike
    return (kappa * ((unlike / unlike.max()).logit() + 0.5)).clamp(0, 1)


RULE = Rule(
    name="foolsgold",
    summary="Weigh each client by how unlike the others its sum of updates is",
    source="Fung et al. 2020, https://arxiv.org/abs/1808.04866",
    condition="n >= 1",
    min_clients=lambda f: 1,
    kind="gram",
    function=foolsgold,
    options={"kappa": Option("Steepness of the logit", float, 1.0, 1e-6, 1e6)},
    needs_f=False,
    cost="(2n)² d for the Gram of updates and histories, then n²",
    kappa="unbounded: one attacker alone is trusted at any length, clients who agree are not",
    reading="Without feature weights; negative cosines count as zero; the weights sum to one, and "
    "where all are zero nothing changes",
    memory="history",
)
