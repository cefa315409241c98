"""Centered clipping: steps from a centre, each client's pull cut to a radius."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from aggregators.engine.gram import Gram, middle
from aggregators.engine.rule import Combination, Facts, Option, Rule

if TYPE_CHECKING:
    from torch import Tensor


def centered_clipping(
    gram: Gram,
    *,
    f: int,
    steps: int = 5,
    radius: float | None = None,
    shares: Tensor | None = None,
) -> Combination:
    """Move a centre v by the mean of x_i - v, each cut to a radius, a few times.

    The centre starts at the Gram's extra point, the last aggregate; without one at the origin,
    the delta of "no change". The paper sets the radius by hand, and one larger than the updates
    makes this the mean; unless given it is the median distance of the clients to the centre, at
    each step. At a median of 0 more than half of the clients stand on the centre: it stays.

    Args:
        gram: The clients' Gram, with the centre as its one extra point or with none.
        f: Clients that may be Byzantine, a count. Needs n >= 2f + 1; not used otherwise.
        steps: How often the centre moves.
        radius: The longest pull, in the units of the updates; None for the median distance.
        shares: The owner's weights of the pulls, summing to one, shape (n,); all alike if None.

    Returns:
        Weights that sum to at most one: the rest stands on the origin. Facts: ``radius`` (of the
        last step), ``shrink`` (factor on each client's pull in it), ``center_share``.

    Raises:
        ValueError: If n < 2f + 1, or the Gram has more than one extra point.

    Source:
        Karimireddy, He, Jaggi 2021 (centered clipping), https://arxiv.org/abs/2012.10333
    """
    n = gram.num_clients
    RULE.check_clients(n, f)
    if gram.num_extra > 1:
        raise ValueError(
            f"centered_clipping needs at most one extra point: got {gram.num_extra}; "
            "give the centre only"
        )
    center = torch.zeros(len(gram.centred), dtype=torch.float64)
    center[n] = 1  # the extra point; where there is none, the origin stands here
    longest, shrink = 0.0, torch.ones(n, dtype=torch.float64)
    for _ in range(steps):
        distances = gram.distances_to(center)
        longest = middle(distances) if radius is None else radius
        shrink = torch.where(distances > longest, longest / distances, 1.0)
        pulls = shrink / n if shares is None else shares * shrink
        center = center * (1 - (shrink.mean() if shares is None else pulls.sum()))
        center[:n] += pulls
    share = 1 - float(center[:n].sum())
    facts: Facts = {"radius": longest, "shrink": shrink.tolist(), "center_share": share}
    return Combination(center[:-1], facts)


RULE = Rule(
    name="centered_clipping",
    summary="Steps from the last aggregate, each client's pull cut to the median distance",
    source="Karimireddy et al. 2021, https://arxiv.org/abs/2012.10333",
    condition="n >= 2f + 1",
    min_clients=lambda f: 2 * f + 1,
    kind="gram",
    function=centered_clipping,
    cost="n² d for the Gram, whatever the number of steps",
    kappa="none: its theorem is for f <= 0.1 n, and for a centre near the honest mean",
    reading="the centre is the last aggregate; the radius follows the median distance to it",
    takes_shares=True,
    options={
        "steps": Option("How often the centre moves", int, 5, 1, 100_000),
        "radius": Option("Longest pull; null is the median distance", float, None, 1e-30),
    },
    memory="center",
)
