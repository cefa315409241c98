"""Static clipping: no row is longer than a radius."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from aggregators.engine.gram import Gram, middle
from aggregators.engine.rule import Mixture, Option, Rule

if TYPE_CHECKING:
    from torch import Tensor


def shrink(norms: Tensor, radius: float) -> Tensor:
    """The factor min(1, radius / norm) that brings each row within the radius, shape (n,)."""
    return torch.where(norms > radius, radius / norms, 1.0)


def clipping(gram: Gram, *, f: int, radius: float | None = None) -> Mixture:
    """Scale each row down to the radius where it is longer.

    The papers set the radius by hand, and one longer than the updates does nothing; unless given
    it is the median norm (of an even count the mean of the two middles), which f < n/2 attackers
    cannot push beyond the honest norms. At a median of 0 every other row is scaled to 0.

    Args:
        gram: The clients' Gram.
        f: Clients that may be Byzantine, a count. Needs n >= 2f + 1; not used otherwise.
        radius: The longest norm, in the units of the updates; None for the median norm.

    Returns:
        The (n, n) diagonal matrix of factors. Facts: ``radius``, ``shrink`` (the factors).

    Raises:
        ValueError: If n < 2f + 1.

    Source:
        Allouah et al. 2025 (static clipping), https://arxiv.org/abs/2405.14432
    """
    RULE.check_clients(gram.num_clients, f)
    norms = gram.norms()
    longest = middle(norms) if radius is None else radius
    factors = shrink(norms, longest)
    return Mixture(torch.diag(factors), {"radius": longest, "shrink": factors.tolist()})


RULE = Rule(
    name="clipping",
    summary="Scale each update down to the median norm, or to a radius",
    source="Allouah et al. 2025, https://arxiv.org/abs/2405.14432",
    condition="n >= 2f + 1",
    min_clients=lambda f: 2 * f + 1,
    kind="mixing",
    function=clipping,
    options={"radius": Option("Longest norm; null is the median norm", float, None, 1e-30)},
    cost="n² d for the Gram, then n²",
    kappa="unbounded: honest rows longer than the radius are cut too, attackers or not",
    reading="The radius is the median norm unless given: a fixed one has units",
)
