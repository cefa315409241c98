"""One aggregation, start to end: check, Gram, mixing, rule, combination, report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from aggregators.engine.columns import Walk, walk_columns
from aggregators.engine.gram import Gram, gram, middle
from aggregators.engine.leaving_out import keep_others
from aggregators.engine.memory import Memory, recall
from aggregators.engine.plans import Plan, Step
from aggregators.engine.rows import Rows, combine, num_columns, squared_norms
from aggregators.engine.rule import Combination, Facts, Kept, Mixture, Rule
from aggregators.engine.screening import (
    check_finite,
    check_left_out,
    check_point,
    check_rows,
    check_shares,
    check_values,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Aggregation:
    """An aggregate, with the weights and the report behind it.

    Attributes:
        aggregate: Shape (d,), dtype and device of the updates, detached.
        weights: Each original client's share in the aggregate, mixing undone, shape (n,),
            float64, on the CPU. Of a rule on columns: the shares of coordinates at which its
            value was used, scaled to sum to one. Under centered clipping the sum may be less
            than one; the rest is the centre.
        state: What to hand in again in the next round; empty for rules without memory.
        report: ``norms`` and ``distances`` (to the aggregate) of each client, and what the rule
            and, as ``mixing[0].nnm.<fact>``, the mixings saw.
    """

    aggregate: Tensor
    weights: Tensor
    state: dict[str, Tensor] = field(default_factory=dict)
    report: Facts = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Weighing:
    """The weights of a plan on the points, before anything of length d is formed.

    Attributes:
        matrix: From the clients to the mixed rows, (m, n), or None without mixing.
        weights: Of a Gram rule: over the points without the origin, mixing undone, (p,).
        noise: Standard deviation to add to each coordinate.
        facts: What rule and mixings saw; ``mixing[0].agreement.skipped`` of a mixing that would
            have left the rest too few rows.
    """

    matrix: Tensor | None
    weights: Tensor | None
    noise: float
    facts: Facts


def weigh(
    points: Gram,
    plan: Plan,
    *,
    f: int,
    generator: torch.Generator | None = None,
    shares: Tensor | None = None,
    left_out: Sequence[int] = (),
) -> Weighing:
    """Run mixings and a Gram rule on the points alone; of a column rule only its mixings."""
    matrix: Tensor | None = None
    facts: Facts = {}
    if left_out:
        matrix = keep_others(points.num_clients, left_out)
        points = points.mixed(matrix)
    for k, step in enumerate(plan.chain):
        drawn = {"generator": generator} if step.rule.takes_generator else {}
        mixture: Mixture = step.rule.function(points, f=f, **step.options, **drawn)
        facts |= {f"mixing[{k}].{step.rule.name}.{key}": v for key, v in mixture.facts.items()}
        rest = Plan(plan.chain[k + 1 :], plan.last)
        if step.rule.leaves_out and not rest.is_defined(len(mixture.matrix), f):
            facts[f"mixing[{k}].{step.rule.name}.skipped"] = 1.0  # the rest could not run at this f
            continue
        points = points.mixed(mixture.matrix)
        matrix = mixture.matrix if matrix is None else mixture.matrix @ matrix
    last = plan.last
    if last.rule.kind == "columns":
        return Weighing(matrix, None, 0.0, facts)
    given: dict[str, Any] = {"shares": shares} if shares is not None else {}
    if last.rule.takes_generator:
        given["generator"] = generator
    combination: Combination = last.rule.function(points, f=f, **last.options, **given)
    weights = combination.weights
    if matrix is not None:
        m = len(matrix)
        weights = torch.cat([matrix.T @ weights[:m], weights[m:]])
    return Weighing(matrix, weights, combination.noise, {**combination.facts, **facts})


def run(
    updates: Rows,
    plan: Plan,
    *,
    f: int,
    memory: Memory,
    given: Gram | None = None,
    reference: Tensor | None = None,
    generator: torch.Generator | None = None,
    shares: Tensor | None = None,
    left_out: Sequence[int] = (),
    report: bool = True,
) -> Aggregation:
    """Aggregate by a plan already checked; see ``aggregators.aggregate_with_report``.

    Without a report the weights are nan, and a column rule without mixing is one pass over the
    rows.
    """
    rows = check_rows(updates)
    plan.check_clients(len(rows), f)
    check_values(rows)
    rule, shares = plan.last.rule, check_shares(shares, len(rows), plan, f)
    check_left_out(left_out, len(rows), plan, f=f, shares=shares)
    extra = recall(rule, memory, rows)
    if rule.takes_reference:
        extra = [check_point(reference, rows, rule.name, "reference")]
    seen = _see(rows, extra, plan, given, report=report)
    weighed = Weighing(None, None, 0.0, {})
    if seen.points is not None and plan.needs_gram:
        weighed = weigh(
            seen.points, plan, f=f, generator=generator, shares=shares, left_out=left_out
        )
    elif left_out:
        weighed = Weighing(keep_others(len(rows), left_out), None, 0.0, {})
    if weighed.weights is None:
        made = _by_columns(rows, plan.last, weighed, seen, f=f, measure=report)
    else:
        made = _by_weights(rows, extra, weighed, seen)
    if plan.is_blind and not report and not made.aggregate.isfinite().all():
        check_finite(rows, squared_norms(rows))
    aggregate = _with_noise(made.aggregate, weighed.noise, generator)
    state = memory.after(rule, rows, aggregate)
    if not report or seen.norms is None:
        return Aggregation(aggregate, torch.full((len(rows),), torch.nan), state)
    facts: Facts = {"norms": seen.norms.tolist(), "distances": made.distances.tolist()}
    return Aggregation(aggregate, made.weights, state, facts | made.facts)


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What was measured of the rows before a rule ran, each only where something needs it."""

    points: Gram | None
    squares: Tensor | None
    norms: Tensor | None


def _see(
    rows: Rows, extra: Sequence[Tensor], plan: Plan, given: Gram | None, *, report: bool
) -> _Seen:
    """Measure the rows, and refuse what is not finite; rules on columns may do so later."""
    points = given
    if points is None and plan.is_blind and not report:
        points = Gram.blank(len(rows))
    elif points is None and plan.needs_gram:
        points = gram(rows, extra=extra)  # refuses what is not finite
    squares: Tensor | None = None
    if given is not None or plan.last.rule.takes_scale or (points is None and report):
        squares = squared_norms(rows)
        check_finite(rows, squares)
    if points is not None:
        _check_given(points, plan.last.rule, rows, extra)
        return _Seen(points, squares, points.norms())
    return _Seen(None, squares, None if squares is None else squares.sqrt())


@dataclass(frozen=True, slots=True, eq=False)
class _Made:
    """An aggregate before noise, and each client's weight, distance to it, and the facts."""

    aggregate: Tensor
    weights: Tensor
    distances: Tensor
    facts: Facts


def _by_weights(rows: Rows, extra: Sequence[Tensor], weighed: Weighing, seen: _Seen) -> _Made:
    """Sum the points by the weights of a Gram rule."""
    points, weights = seen.points, weighed.weights
    assert points is not None
    assert weights is not None
    distances = points.distances_to(points.affine(weights))
    aggregate = combine(rows, weights, extra=extra)
    return _Made(aggregate, weights[: len(rows)], distances, weighed.facts)


def _by_columns(
    rows: Rows, step: Step, weighed: Weighing, seen: _Seen, *, f: int, measure: bool
) -> _Made:
    """Run a rule on the columns of the rows, mixed first where there is a mixing."""
    # The scale is that of the rows, whatever geometry the points come from.
    squares, matrix = seen.squares, weighed.matrix
    scale = 0.0 if squares is None else middle(squares.sqrt()) / num_columns(rows) ** 0.5
    walk = _on_columns(rows, step, matrix, f, scale, seen.norms is None, measure)
    facts: Facts = {"kept_share": walk.used.tolist(), **weighed.facts}
    weights = walk.used if matrix is None else matrix.T @ walk.used
    weights = weights / weights.sum() if weights.sum() > 0 else weights
    return _Made(walk.aggregate, weights, walk.distances, facts)


def _on_columns(
    rows: Rows,
    step: Step,
    matrix: Tensor | None,
    f: int,
    scale: float,
    screen: bool,
    measure: bool,
) -> Walk:
    """Walk the columns; where not screened before, refuse what is not finite on the way."""
    given = {"scale": scale} if step.rule.takes_scale else {}

    def on_block(block: Tensor) -> Kept:
        kept: Kept = step.rule.function(block, f=f, **step.options, **given)
        return kept

    walk = walk_columns(rows, on_block, matrix=matrix, measure=measure, screen=screen)
    if walk.in_doubt:
        check_finite(rows, squared_norms(rows))
        walk = walk_columns(rows, on_block, matrix=matrix, measure=measure)
    return walk


def _with_noise(aggregate: Tensor, noise: float, generator: torch.Generator | None) -> Tensor:
    if noise == 0:
        return aggregate
    if generator is None:
        raise ValueError(
            "noise needs a generator: got None; hand in generator=torch.Generator().manual_seed(k)"
        )
    drawn = torch.randn(aggregate.shape, generator=generator, device=generator.device)
    return aggregate + (noise * drawn).to(aggregate.device, aggregate.dtype)


def _check_given(points: Gram, rule: Rule, rows: Rows, extra: Sequence[Tensor]) -> None:
    """Refuse a Gram that is over other clients or lacks the rule's extra points."""
    if points.num_clients != len(rows) or points.num_extra != len(extra):
        raise ValueError(
            f"{rule.name} needs a Gram over n={len(rows)} clients and {len(extra)} extra points: "
            f"got {points.num_clients} and {points.num_extra}; compute it over the same rows"
        )
