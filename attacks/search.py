"""Search for the rows that move the server's actual rule furthest, within a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from attacks.attack import Option
from attacks.scene import Search, Span

if TYPE_CHECKING:
    from torch import Tensor

Goal = Callable[["Tensor"], float]
"""From the aggregate's coefficients over the points to the value that attackers maximise."""

OBJECTIVES = ("push", "progress", "displacement")
OBJECTIVE = Option(
    kind=str,
    default="push",
    choices=OBJECTIVES,
    summary="push along the direction, progress lost along the honest mean, or displacement",
)
SLOW = 10
"""A rule that works on whole rows, not on small matrices, gets 1/SLOW of the evaluations."""

_SCALES = (1.0, 0.95, 0.9, 0.8, 0.65, 0.5, 1.05, 1.15)
_NEAR = 0.05
_GROWTH, _SHRINKAGE = 1.3, 1.3**-0.25  # one success in five: Rechenberg's rule


@dataclass(frozen=True, eq=False)
class Family:
    """A family of crafted rows that a search explores.

    Attributes:
        rows: From parameters to the attackers' coefficients, (num_attackers, width).
        starts: Parameters to begin with, shape (s, q), at least one.
        draw: Parameters at random, for where no start leads; None: the starts are enough.
        lengthen: From parameters and a factor to the parameters of rows that many times as long.
    """

    rows: Callable[[Tensor], Tensor]
    starts: Tensor
    draw: Callable[[torch.Generator], Tensor] | None = None
    lengthen: Callable[[Tensor, float], Tensor] = lambda parameters, times: times * parameters


def goal_of(objective: str, span: Span, num_honest: int, *, enough: float = math.inf) -> Goal:
    """Return the function of the aggregate that the attackers maximise.

    With m the honest mean, L the honest median length and T the direction, the point right behind
    the honest ones: ``push`` is <aggregate - m, T> / (|T| L), in honest lengths; ``progress`` is
    1 - <aggregate, m> / |m|², the share of the honest step that is lost, above 1 where the model
    goes backwards; ``displacement`` is |aggregate - m| / L.

    Args:
        objective: Of ``OBJECTIVES``.
        span: Holds the points.
        num_honest: How many of them are honest updates.
        enough: Values beyond this one count as this one.

    Raises:
        ValueError: If the objective is unknown.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"a search needs one of {', '.join(OBJECTIVES)}: got {objective!r}")
    gram = span.gram
    mean = torch.zeros(len(gram), dtype=torch.float64)
    mean[:num_honest] = 1 / num_honest
    length = float(gram.diagonal()[:num_honest].clamp(min=0).sqrt().median()) or 1.0
    along = gram[num_honest] if objective == "push" else gram @ mean
    own = float(gram[num_honest, num_honest] if objective == "push" else mean @ gram @ mean)

    def value(aggregate: Tensor) -> float:
        moved = aggregate - mean
        if objective == "displacement":
            got = math.sqrt(max(float(moved @ gram @ moved), 0.0)) / length
        elif own <= 0:
            got = 0.0
        elif objective == "push":
            got = float(moved @ along) / (math.sqrt(own) * length)
        else:
            got = -float(moved @ along) / own
        return min(got, enough) if math.isfinite(got) else 0.0

    return value


def worst(
    family: Family,
    span: Span,
    goal: Goal,
    *,
    search: Search,
    generator: torch.Generator,
) -> Tensor:
    """Return the attackers' coefficients, of one family, with the greatest value of the goal.

    The starts are tried first, with a fifth of the budget at most, then as many draws as two fifths
    pay for: a rule that leaves rows out is flat but for cliffs, and no climb finds these. From the
    best, as many as there are restarts, a (1+1) evolution strategy goes on with equal shares of
    the rest. Each result is then formed as rows, screened and tried on exact products at eight
    lengths around its own, and the best of these is climbed further there with a twentieth of the
    budget more: the small matrices only approximate what the server does.

    Args:
        family: Where to look.
        span: The server's rule. One that is not ``quick`` is tried ``evaluations / 10`` times.
        goal: The value to maximise.
        search: The budget.
        generator: Draws the mutations.
    """
    budget = search.evaluations if span.quick else max(search.evaluations // SLOW, 1)

    def score(parameters: Tensor) -> float:
        return goal(span.weigh(family.rows(parameters)))

    tried = list(family.starts[: max(budget // 5, 1)])
    if family.draw is not None:
        tried += [family.draw(generator) for _ in range(budget * 2 // 5)]
    scored = sorted(((score(each), k) for k, each in enumerate(tried)), key=_by_value)
    each = max(budget - len(tried), 0) // search.restarts
    ends = [
        climb(score, tried[k], value, evaluations=each, generator=generator)
        for value, k in scored[: search.restarts]
    ]
    exact = max(search.evaluations // 20, 1)
    return _confirmed(family, ends, span, goal, exact, generator)


def _by_value(found: tuple[float, int]) -> tuple[float, int]:
    """Sort key: the greatest value first, of equal values the first tried."""
    return -found[0], found[1]


def climb(
    score: Callable[[Tensor], float],
    start: Tensor,
    value: float,
    *,
    evaluations: int,
    generator: torch.Generator,
    width: float = 0.3,
) -> Tensor:
    """Return the best parameters that a (1+1) evolution strategy finds from a start.

    Half of the mutations are of one parameter alone; steps are relative to the parameters' size.

    Args:
        score: The value to maximise.
        start: Where it begins, shape (q,).
        value: The start's score.
        evaluations: How often the score is asked for.
        generator: Draws the mutations.
        width: Of the first one, relative.
    """
    best = start
    for _ in range(evaluations):
        step = torch.randn(start.shape, generator=generator, dtype=torch.float64)
        if torch.rand((), generator=generator) < 0.5:
            alone = int(torch.randint(start.numel(), (), generator=generator))
            step = torch.where(torch.arange(start.numel()) == alone, 2 * step, 0.0)
        size = best.abs().maximum(best.abs().mean().clamp(min=1e-3))
        tried = best + width * size * step
        got = score(tried)
        better = got > value
        width = min(max(width * (_GROWTH if better else _SHRINKAGE), 1e-3), 3.0)
        if better:
            best, value = tried, got
    return best


def _confirmed(
    family: Family,
    ends: Sequence[Tensor],
    span: Span,
    goal: Goal,
    evaluations: int,
    generator: torch.Generator,
) -> Tensor:
    """Return the best of the ends by the server's exact procedure, improved nearby."""

    def score(parameters: Tensor) -> float:
        return goal(span.confirm(family.rows(parameters)))

    scales = _SCALES if span.quick else (1.0,)  # else it is the exact score that was climbed
    tried = [family.lengthen(end, times) for end in ends for times in scales]
    value, k = min(((score(each), k) for k, each in enumerate(tried)), key=_by_value)
    if not span.quick:
        return family.rows(tried[k])
    near = climb(score, tried[k], value, evaluations=evaluations, generator=generator, width=_NEAR)
    return family.rows(near)
