"""Multi-Krum: the average of the updates that Krum scores best."""

from __future__ import annotations

import torch

from aggregators.engine.gram import Gram
from aggregators.engine.rule import Combination, Option, Rule
from aggregators.engine.ties import in_order
from aggregators.rules.gram.krum import krum_scores


def multi_krum(gram: Gram, *, f: int, m: int | None = None) -> Combination:
    """Average the m updates with the least Krum scores, all scored once over all n clients.

    Peers read m as n-f, n-f-2, or a share of n. Here it is n-f unless given: the most that can
    all be honest. Scores equal to 1e-9 of themselves: the lowest index first. m = 1 is Krum.

    Args:
        gram: The clients' Gram.
        f: Clients that may be Byzantine, a count. Needs n >= 2f + 3.
        m: How many to average, 1 to n-f.

    Returns:
        Weight 1/m on each selected client. Facts: ``selected`` (best first), ``scores``.

    Raises:
        ValueError: If n < 2f + 3, or m > n-f.

    Source:
        Blanchard et al. 2017 ("Multi-Krum"), https://arxiv.org/abs/1703.02757
    """
    n = gram.num_clients
    RULE.check_clients(n, f, {"m": m})
    count = n - f if m is None else m
    scores = krum_scores(gram, f=f)
    selected = in_order(scores)[:count]
    weights = torch.zeros(n + gram.num_extra, dtype=torch.float64)
    weights[selected] = 1 / count
    return Combination(
        weights,
        {"selected": [float(i) for i in selected.tolist()], "scores": scores.tolist()},
    )


def _limit(n: int, f: int, m: int | None = None) -> str | None:
    if m is None or m <= n - f:
        return None
    return (
        f"needs 1 <= m <= n - f: got m={m}, n={n}, f={f}; set m to {n - f} or less, or leave it out"
    )


RULE = Rule(
    name="multi_krum",
    summary="The average of the m updates with the best Krum scores",
    source="Blanchard et al. 2017, https://arxiv.org/abs/1703.02757",
    condition="n >= 2f + 3",
    min_clients=lambda f: 2 * f + 3,
    kind="gram",
    function=multi_krum,
    cost="n² d for the Gram",
    reading="all n scored once; m = n-f unless given; the picks weigh alike",
    options={"m": Option("How many updates to average; null is n - f", int, None, 1)},
    limit=_limit,
)
