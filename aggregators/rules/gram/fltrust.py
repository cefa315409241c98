"""FLTrust: trust each client by the cosine of its update with the server's own update."""

from __future__ import annotations

import torch

from aggregators.engine.gram import Gram
from aggregators.engine.rule import Combination, Facts, Rule


def fltrust(gram: Gram, *, f: int) -> Combination:
    """Weigh each update by relu(cos) with the server's, brought to the server's norm.

    The server trains on a small clean data set; its update is the Gram's one extra point and only
    a reference: it has no weight itself. A client of norm zero, or below 1e-7 of the
    clients' median, which is zero to the Gram, has no direction and no trust. If no client is
    trusted, the aggregate is zero: no change.

    Args:
        gram: The clients' Gram, with the server's update as its one extra point.
        f: Not used: the server's data decide, for any number of attackers.

    Returns:
        Weights trust_i / sum of trusts * (server's norm / client's norm); their sum is not one.
        Facts: ``trust`` (relu of the cosine), ``trusted`` (how many have any).

    Raises:
        ValueError: If the Gram has not exactly one extra point.

    Source:
        Cao, Fang, Liu, Gong 2021, Algorithm 2, https://arxiv.org/abs/2012.13995
    """
    n = gram.num_clients
    RULE.check_clients(n, f)
    if gram.num_extra != 1:
        raise ValueError(
            f"fltrust needs one extra point, the server's update: got {gram.num_extra}; "
            "compute the Gram with extra=[reference]"
        )
    points = Gram(gram.centred, n + 1)
    norms, towards = points.norms(), points.inner_products()[:n, n]
    known = (norms[:n] > 0) & (norms[n] > 0)
    trust = torch.where(known, towards / norms[:n] / norms[n], 0.0).clamp(min=0)
    weights = torch.zeros(n + 1, dtype=torch.float64)
    if trust.any():
        shares = trust / trust.sum()
        weights[:n] = torch.where(trust > 0, shares * norms[n] / norms[:n], 0.0)
    facts: Facts = {"trust": trust.tolist(), "trusted": float((trust > 0).sum())}
    return Combination(weights, facts)


RULE = Rule(
    name="fltrust",
    summary="Trust each update by its cosine with the server's own, at the server's norm",
    source="Cao et al. 2021, https://arxiv.org/abs/2012.13995",
    condition="n >= 1",
    min_clients=lambda f: 1,
    kind="gram",
    function=fltrust,
    needs_f=False,
    cost="(n+1)² d for the Gram, then n",
    kappa="none: it is measured against the server's data, not against the honest clients",
    reading="Where every trust is zero the aggregate is zero; the server's update has no weight",
    takes_reference=True,
)
