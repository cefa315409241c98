"""Agreement: leave out the updates that point against the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from aggregators.engine.gram import Gram
from aggregators.engine.leaving_out import keep_others
from aggregators.engine.rule import Facts, Mixture, Rule

if TYPE_CHECKING:
    from torch import Tensor

# Standard deviations below the middle, by the median absolute deviation, that noise is granted.
_GRANTED = 2.0
_MAD_TO_STD = 1.4826
# A median of many normal values strays by so many standard errors of their mean: sqrt(pi / 2).
_MEDIAN_TO_MEAN = 1.2533
_DIGITS = 9  # of an agreement that count: rows along one line agree to the last bits only


def agreement(gram: Gram, *, f: int) -> Mixture:
    """Leave out up to f rows that point against the others.

    A row's agreement is the median of its cosines with the other rows, about the origin: a
    median, so that up to f attackers cannot raise each other's agreement. The rows of least
    agreement, at most f of them, are left out if it is below zero and more than two standard
    deviations below the middle. Both must hold: honest rows of late rounds are nearly orthogonal,
    and scatter round zero. Middle and standard deviation are the median, and 1.4826 times the
    median absolute deviation, of the n - f rows of most agreement: attackers far below would
    otherwise widen them for all. Attackers with equal agreement could narrow it until honest rows
    just below zero are left out, so it is no less than the standard error of a median of n - 1
    cosines, 1.2533 / sqrt(n - 1) times the median row's spread of cosines.

    It leaves out honest clients only where they agree on next to nothing: of ten honest rows of
    pure noise, 0.6 are left out in a round at f = 3 (a test holds it under one).

    Distances cannot do this. Where clients differ much, minus the mean of all is nearer to each of
    them than they are to each other, and rules that look for the middle of a cluster prefer it.
    The assumption is that most pairs of honest clients move in the same direction, however little:
    a client with data that ask for the opposite of all others' is left out with the attackers.

    Agreements are compared to nine digits; of equal ones the lowest index is left out first.

    The mixings and the rule after this see the rows that stay, with the same f: a row that is left
    out may be honest, framed by f others that point away from it. Where they are not defined on so
    few rows, none is left out. With a rule that may drop f rows itself, 2f in all can have weight
    0. A row of zeros has an agreement of zero with all others: it stays.

    Args:
        gram: The clients' Gram.
        f: Clients that may be Byzantine, a count. Needs n >= 2f + 1.

    Returns:
        The (n - k, n) matrix of the rows that stay, k <= f. Facts: ``agreement`` of each row,
        ``against`` (how many are left out).

    Raises:
        ValueError: If n < 2f + 1.

    Source:
        Our own. Nearest published: the sign and direction filter of Xu et al. 2022 (SignGuard),
        https://arxiv.org/abs/2109.05872, and FLTrust's cosines,
        https://arxiv.org/abs/2012.13995, without a server's own update.
    """
    n = gram.num_clients
    RULE.check_clients(n, f)
    cosines = _cosines(gram)
    agreed = _median(cosines).round(decimals=_DIGITS)
    upper = agreed.sort(descending=True).values[: n - f]
    middle = _median(upper)
    spread = torch.maximum(
        _MAD_TO_STD * _median((upper - middle).abs()), _error_of_a_median(cosines)
    )
    below = torch.tensor([min(0.0, float(middle - _GRANTED * spread))], dtype=torch.float64)
    against = [int(i) for i in agreed.argsort(stable=True)[:f] if agreed[i] < below]
    facts: Facts = {"agreement": agreed.tolist(), "against": float(len(against))}
    return Mixture(keep_others(n, against), facts)


def _cosines(gram: Gram) -> Tensor:
    """The cosines of each row with the others, shape (n, n - 1), or zeros (1, 1) of a single row.

    A row of zeros has cosine 0 with all.
    """
    n = gram.num_clients
    norms = gram.norms()
    largest = norms.max()
    if n == 1 or largest == 0:
        return torch.zeros(n, max(n - 1, 1), dtype=torch.float64)
    # Scaled by the largest, then each to one: a product of two norms of 1e300 is none.
    inner = gram.inner_products()[:n, :n] / largest / largest
    lengths = norms / largest
    cosines = inner / lengths[:, None] / lengths[None, :]
    cosines = torch.where((norms[:, None] > 0) & (norms[None, :] > 0), cosines, 0.0)
    others = ~torch.eye(n, dtype=torch.bool)
    return cosines[others].reshape(n, n - 1).clamp(-1, 1)


def _error_of_a_median(cosines: Tensor) -> Tensor:
    """How far a median of so many normal cosines strays, by the median row's spread of them."""
    spreads = _median((cosines - _median(cosines)[:, None]).abs())
    error: Tensor = _MEDIAN_TO_MEAN * _MAD_TO_STD * _median(spreads) / cosines.shape[1] ** 0.5
    return error


def _median(values: Tensor) -> Tensor:
    """The median along the last dimension, the mean of the middle two of an even count."""
    ordered, count = values.sort(dim=-1).values, values.shape[-1]
    return (ordered[..., (count - 1) // 2] + ordered[..., count // 2]) / 2


RULE = Rule(
    name="agreement",
    summary="Leave out up to f updates that point against the others",
    source="Our own; near Xu et al. 2022 (SignGuard), https://arxiv.org/abs/2109.05872",
    condition="n >= 2f + 1",
    min_clients=lambda f: 2 * f + 1,
    kind="mixing",
    function=agreement,
    cost="n² d for the Gram, then n² log n",
    kappa="none by itself: it bounds no length; name a rule with a bound after it",
    leaves_out=True,
    reading="Cosines about the origin, with the server's anchor as the origin",
)
