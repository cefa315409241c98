"""Bucketing: the clients are shuffled and averaged in small groups."""

from __future__ import annotations

import torch

from aggregators.engine.gram import Gram
from aggregators.engine.rule import Mixture, Option, Rule


def bucketing(gram: Gram, *, f: int, s: int = 2, generator: torch.Generator | None) -> Mixture:
    """Shuffle the clients and replace each s of them in turn by their mean.

    The honest variance falls by s, and up to f of the ceil(n/s) buckets hold a Byzantine client,
    so the rule after it must hold at f of ceil(n/s) rows: mixing thins out the clients.
    Buckets are drawn anew at each call. Where s does not divide n, the last bucket is smaller:
    it is the mean of those in it, not their sum over s, and counts like the others.

    Args:
        gram: The clients' Gram.
        f: Not used here: it stays what it was for the rule that follows.
        s: Clients in a bucket, 1 to n. 1 only shuffles, n leaves the mean.
        generator: Where the shuffle is drawn.

    Returns:
        The (ceil(n/s), n) matrix of bucket means. Facts: ``bucket``, each client's bucket.

    Raises:
        ValueError: If s > n, or there is no generator.

    Source:
        Karimireddy, He, Jaggi 2022, Algorithm 1, https://arxiv.org/abs/2006.09365
    """
    n = gram.num_clients
    RULE.check_clients(n, f, {"s": s})
    if generator is None:
        raise ValueError(
            "bucketing needs a generator: got None; hand in "
            "generator=torch.Generator().manual_seed(k)"
        )
    order = torch.randperm(n, generator=generator, device=generator.device).cpu()
    bucket = torch.empty(n, dtype=torch.int64)
    bucket[order] = torch.arange(n) // s
    members = torch.nn.functional.one_hot(bucket).T.to(torch.float64)
    matrix = members / members.sum(dim=1, keepdim=True)
    return Mixture(matrix, {"bucket": bucket.to(torch.float64).tolist()})


def _limit(n: int, f: int, s: int = 2) -> str | None:
    if s <= n:
        return None
    return f"needs 1 <= s <= n: got s={s}, n={n}; set s to {n} or less, or wait for {s} clients"


def _rows_out(n: int, s: int = 2) -> int:
    return -(-n // s)


RULE = Rule(
    name="bucketing",
    summary="Shuffle the updates and replace each s of them by their mean",
    source="Karimireddy, He, Jaggi 2022, https://arxiv.org/abs/2006.09365",
    condition="n >= 1",
    min_clients=lambda f: 1,
    kind="mixing",
    function=bucketing,
    options={"s": Option("Clients in a bucket", int, 2, 1)},
    needs_f=False,
    cost="n² d for the Gram, then n²",
    kappa="the rule after it pays its kappa at f of ceil(n/s) rows, on 1/s of the honest "
    "variance (in expectation)",
    reading="Without replacement; where s does not divide n, the last bucket is the mean of those "
    "in it and counts like the others",
    limit=_limit,
    rows_out=_rows_out,
    takes_generator=True,
)
