"""One aggregation, start to end: check, Gram, mixing, rule, combination, report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from aggregators.columns import Walk, walk_columns
from aggregators.gram import Gram, gram, middle
from aggregators.memory import Memory, recall
from aggregators.rows import Rows, combine, num_columns, squared_norms
from aggregators.rule import Combination, Facts, Kept, Mixture, Rule
from aggregators.screening import check_finite, check_point, check_rows, check_shares, check_values


@dataclass(frozen=True, slots=True, eq=False)
class Aggregation:
    """An aggregate and how it came about.

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
class Step:
    """A rule or a mixing with its options, checked."""

    rule: Rule
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Which mixings run, in order, and which rule after them.

    Attributes:
        chain: The mixings asked for, and last the one that belongs to the rule, if any.
        last: The rule.
    """

    chain: tuple[Step, ...]
    last: Step

    @property
    def needs_gram(self) -> bool:
        """Whether anything here looks at distances."""
        return self.last.rule.kind == "gram" or bool(self.chain)

    def check_clients(self, num_clients: int, f: int) -> None:
        """Refuse an (n, f) at which a mixing, or the rule on what they leave, is not defined.

        Raises:
            ValueError: With the first condition that does not hold.
        """
        rows, own = num_clients, self.last.rule.first
        for step in self.chain:
            if step.rule is own:
                break
            _check_rows_left(step, rows, num_clients, f)
            rows = step.rule.count_rows(rows, step.options)
        _check_rows_left(self.last, rows, num_clients, f)

    def min_clients(self, f: int, *, most: int = 10_000) -> int | None:
        """The fewest clients with which all of this is defined, or None up to ``most``."""
        for n in range(1, most + 1):
            try:
                self.check_clients(n, f)
            except ValueError:
                continue
            return n
        return None


def _check_rows_left(step: Step, rows: int, num_clients: int, f: int) -> None:
    try:
        step.rule.check_clients(rows, f, step.options)
    except ValueError as error:
        if rows == num_clients:
            raise
        raise ValueError(f"{error} (the mixings leave {rows} rows of {num_clients})") from None


@dataclass(frozen=True, slots=True, eq=False)
class Weighing:
    """What a plan makes of the points, before anything of length d is formed.

    Attributes:
        matrix: From the clients to the mixed rows, (m, n), or None without mixing.
        weights: Of a Gram rule: over the points without the origin, mixing undone, (p,).
        noise: Standard deviation to add to each coordinate.
        facts: What rule and mixings saw.
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
) -> Weighing:
    """Run mixings and a Gram rule on the points alone; of a column rule only its mixings."""
    matrix: Tensor | None = None
    facts: Facts = {}
    for k, step in enumerate(plan.chain):
        drawn = {"generator": generator} if step.rule.takes_generator else {}
        mixture: Mixture = step.rule.function(points, f=f, **step.options, **drawn)
        points = points.mixed(mixture.matrix)
        matrix = mixture.matrix if matrix is None else mixture.matrix @ matrix
        facts |= {f"mixing[{k}].{step.rule.name}.{key}": v for key, v in mixture.facts.items()}
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
    report: bool = True,
) -> Aggregation:
    """Aggregate by a plan already checked; see ``aggregators.aggregate_with_report``.

    Without a report the weights are nan, and a column rule without mixing is one pass over the
    rows.
    """
    rows = check_rows(updates)
    plan.check_clients(len(rows), f)
    check_values(rows)
    shares = check_shares(shares, len(rows), plan, f)
    extra = recall(plan.last.rule, memory, rows)
    if plan.last.rule.takes_reference:
        extra = [check_point(reference, rows, plan.last.rule.name, "reference")]
    points = given
    if points is None and plan.needs_gram:
        points = gram(rows, extra=extra)  # refuses what is not finite
    squares: Tensor | None = None
    takes_scale = plan.last.rule.takes_scale
    if given is not None or takes_scale or (points is None and report):
        squares = squared_norms(rows)
        check_finite(rows, squares)
    if points is not None:
        _check_given(points, plan.last.rule, rows, extra)
    norms = squares.sqrt() if points is None and squares is not None else None
    norms = norms if points is None else points.norms()
    weighed = Weighing(None, None, 0.0, {})
    if points is not None and plan.needs_gram:
        weighed = weigh(points, plan, f=f, generator=generator, shares=shares)
    facts = weighed.facts
    if weighed.weights is None:
        # The scale is that of the rows, whatever geometry the points come from.
        scale = 0.0 if squares is None else middle(squares.sqrt()) / num_columns(rows) ** 0.5
        walk = _on_columns(rows, plan.last, weighed.matrix, f, scale, norms is None, report)
        aggregate, weights, distances = walk.aggregate, walk.used, walk.distances
        facts = {"kept_share": weights.tolist(), **facts}
        weights = weights if weighed.matrix is None else weighed.matrix.T @ weights
        weights = weights / weights.sum() if weights.sum() > 0 else weights
    else:
        assert points is not None
        aggregate = combine(rows, weighed.weights, extra=extra)
        weights = weighed.weights[: len(rows)]
        distances = points.distances_to(points.affine(weighed.weights))
    aggregate = _with_noise(aggregate, weighed.noise, generator)
    state = memory.after(plan.last.rule, rows, aggregate)
    if not report or norms is None:
        return Aggregation(aggregate, torch.full((len(rows),), torch.nan), state)
    seen: Facts = {"norms": norms.tolist(), "distances": distances.tolist(), **facts}
    return Aggregation(aggregate, weights, state, seen)


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
