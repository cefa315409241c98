"""One aggregation, start to end: check, Gram, mixing, rule, combination, report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from aggregators.columns import walk_columns
from aggregators.gram import Gram, gram
from aggregators.rows import combine, distances_to, squared_norms
from aggregators.rule import Combination, Facts, Mixture, Rule

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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


def run(
    updates: Tensor,
    rule: Rule,
    chain: Sequence[Rule],
    *,
    f: int,
    state: Mapping[str, Tensor] | None,
    given: Gram | None,
    options: Mapping[str, object],
) -> Aggregation:
    """Aggregate with rules already looked up; see ``aggregators.aggregate_with_report``."""
    _check_matrix(updates)
    for each in (rule, *chain):
        each.check_clients(len(updates), f)
    checked = rule.check_options(options)
    _check_values(updates)
    rows = updates.detach()
    squares = squared_norms(rows)
    _check_finite(rows, squares)
    extra = _extra_points(rule, state or {}, rows)
    points = given
    if points is None and (rule.kind == "gram" or chain):
        points = gram(rows, extra=extra, squares=squares)
    if points is not None:
        _check_given(points, rule, rows, extra)
    norms = squares.sqrt() if points is None else points.norms()
    mixed, matrix, facts = _mix(points, chain, f)

    if rule.kind == "columns":
        aggregate, weights, distances, seen = _on_columns(rows, rule, matrix, f, checked)
    else:
        assert points is not None
        assert mixed is not None
        combination: Combination = rule.function(mixed, f=f, **checked)
        aggregate, weights, distances = _on_gram(rows, extra, points, matrix, combination)
        seen = combination.facts
    report: Facts = {"norms": norms.tolist(), "distances": distances.tolist(), **seen, **facts}
    carried = {name: aggregate.clone() for name in rule.state}
    return Aggregation(aggregate, weights, carried, report)


def _mix(
    points: Gram | None, chain: Sequence[Rule], f: int
) -> tuple[Gram | None, Tensor | None, Facts]:
    """Run the mixings in order; the product of their matrices takes the clients to mixed rows."""
    matrix: Tensor | None = None
    facts: Facts = {}
    for k, mixing in enumerate(chain):
        assert points is not None
        mixture: Mixture = mixing.function(points, f=f)
        points = points.mixed(mixture.matrix)
        matrix = mixture.matrix if matrix is None else mixture.matrix @ matrix
        facts |= {f"mixing[{k}].{mixing.name}.{key}": v for key, v in mixture.facts.items()}
    return points, matrix, facts


def _on_gram(
    rows: Tensor,
    extra: Sequence[Tensor],
    points: Gram,
    matrix: Tensor | None,
    combination: Combination,
) -> tuple[Tensor, Tensor, Tensor]:
    """Bring the weights back to the clients and combine: aggregate, weights, distances."""
    weights = combination.weights
    if matrix is not None:
        m = len(matrix)
        weights = torch.cat([matrix.T @ weights[:m], weights[m:]])
    aggregate = combine([*rows, *extra], weights)
    return aggregate, weights[: len(rows)], points.distances_to(points.affine(weights))


def _on_columns(
    rows: Tensor, rule: Rule, matrix: Tensor | None, f: int, options: Mapping[str, object]
) -> tuple[Tensor, Tensor, Tensor, Facts]:
    """Walk the columns: aggregate, weights, distances, facts."""

    def on_block(block: Tensor) -> tuple[Tensor, Tensor]:
        values, counts = rule.function(block, f=f, **options)
        return values, counts

    aggregate, kept = walk_columns(rows, on_block, matrix=matrix)
    weights = kept if matrix is None else matrix.T @ kept
    return (
        aggregate,
        weights / weights.sum(),
        distances_to(rows, aggregate),
        {"kept_share": kept.tolist()},
    )


def _check_matrix(updates: Tensor) -> None:
    """Refuse what is no (n, d) tensor."""
    if not isinstance(updates, Tensor):
        raise TypeError(
            f"updates needs to be a torch tensor: got {type(updates).__name__}; "
            "stack the clients' updates into one (n, d) tensor"
        )
    if updates.ndim != 2 or updates.layout != torch.strided:
        raise ValueError(
            f"updates needs the shape (n, d), dense: got {tuple(updates.shape)}, "
            f"{updates.layout}; flatten each client's update to one row"
        )


def _check_values(updates: Tensor) -> None:
    """Refuse other numbers than the engine sums, and rows without coordinates."""
    if updates.dtype not in _DTYPES:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
        raise ValueError(
            f"updates needs a floating dtype ({names}): got {updates.dtype}; convert it first"
        )
    if updates.shape[1] == 0:
        raise ValueError(
            f"updates needs d >= 1 coordinates: got the empty shape {tuple(updates.shape)}; "
            "send at least one"
        )


def _check_finite(rows: Tensor, squares: Tensor) -> None:
    """Refuse rows that are not finite, or whose squared norm leaves float64."""
    suspects = (~squares.isfinite()).nonzero().flatten().tolist()
    bad = [i for i in suspects if not rows[i].isfinite().all()]
    if bad:
        raise ValueError(
            f"updates needs finite values: got inf or nan in rows {bad}; "
            "reject these clients before aggregating"
        )
    if suspects:
        raise ValueError(
            f"updates needs squared norms within float64: got an overflow in rows {suspects}; "
            "reject these clients before aggregating"
        )


def _extra_points(rule: Rule, state: Mapping[str, Tensor], rows: Tensor) -> list[Tensor]:
    """Take the rule's state as extra points, each of shape (d,), on the rows' device."""
    for name in state:
        if name not in rule.state:
            carries = ", ".join(rule.state) or "none"
            raise ValueError(f"{rule.name} carries the state {carries}: got {name!r}; leave it out")
    points = [state[name].detach() for name in rule.state if name in state]
    for name, point in zip(rule.state, points, strict=False):
        right = point.shape == rows.shape[1:] and point.dtype in _DTYPES
        if not right or not point.isfinite().all():
            raise ValueError(
                f"{rule.name} needs a finite floating {name} of shape {tuple(rows.shape[1:])}: "
                f"got {point.dtype} {tuple(point.shape)}; hand in the state of the last round"
            )
    return [point.to(rows.device) for point in points]


def _check_given(points: Gram, rule: Rule, rows: Tensor, extra: Sequence[Tensor]) -> None:
    """Refuse a Gram that is over other clients or lacks the rule's extra points."""
    if points.num_clients != len(rows) or points.num_extra != len(extra):
        raise ValueError(
            f"{rule.name} needs a Gram over n={len(rows)} clients and {len(extra)} extra points: "
            f"got {points.num_clients} and {points.num_extra}; compute it over the same rows"
        )
