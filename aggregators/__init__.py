"""Byzantine-robust aggregation of client updates: (n, d) -> (d,), in pure torch.

>>> import torch, aggregators
>>> updates = torch.tensor([[1.0], [2.0], [3.0], [1e8]])
>>> aggregators.aggregate(updates, "trimmed_mean", f=1)
tensor([2.5000])

A rule works on the Gram matrix of the updates or on their columns; a mixing runs before either.
Everything that there is stands in ``AGGREGATORS`` and ``MIXINGS``.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from aggregators import (
    centered_clipping,
    geometric_median,
    krum,
    mean,
    median,
    mixing,
    multi_krum,
    trimmed_mean,
)
from aggregators.aggregation import Aggregation, run
from aggregators.gram import Gram
from aggregators.rule import Option, Rule, unknown

__all__ = [
    "AGGREGATORS",
    "MIXINGS",
    "Aggregation",
    "Gram",
    "Option",
    "Rule",
    "aggregate",
    "aggregate_with_report",
]

AGGREGATORS: dict[str, Rule] = {
    "mean": mean.RULE,
    "median": median.RULE,
    "trimmed_mean": trimmed_mean.RULE,
    "krum": krum.RULE,
    "multi_krum": multi_krum.RULE,
    "geometric_median": geometric_median.RULE,
    "centered_clipping": centered_clipping.RULE,
}

MIXINGS: dict[str, Rule] = {
    "nnm": mixing.NNM,
}


def aggregate(
    updates: Tensor,
    name: str,
    *,
    f: int,
    mixing: Sequence[str] = (),
    state: Mapping[str, Tensor] | None = None,
    gram: Gram | None = None,
    **options: object,
) -> Tensor:
    """Aggregate client updates by a rule of ``AGGREGATORS``.

    Args:
        updates: One client update per row, shape (n, d), floating point; never modified.
        name: The rule.
        f: Clients that may be Byzantine, a count.
        mixing: Names of ``MIXINGS``, run before the rule in this order.
        state: As in ``aggregate_with_report``, which also returns the next one.
        gram: As in ``aggregate_with_report``.
        **options: The rule's options, listed in ``AGGREGATORS[name].options``.

    Returns:
        The aggregate, shape (d,), dtype and device of ``updates``, detached.

    Raises:
        ValueError: If too few clients for f, a value is not finite, or a name, option, shape or
            dtype is not one that there is.
    """
    return aggregate_with_report(
        updates, name, f=f, mixing=mixing, state=state, gram=gram, **options
    ).aggregate


def aggregate_with_report(
    updates: Tensor,
    name: str,
    *,
    f: int,
    mixing: Sequence[str] = (),
    state: Mapping[str, Tensor] | None = None,
    gram: Gram | None = None,
    **options: object,
) -> Aggregation:
    """Aggregate client updates, and say how.

    Args:
        updates: One client update per row, shape (n, d), floating point; never modified.
        name: The rule, one of ``AGGREGATORS``.
        f: Clients that may be Byzantine, a count.
        mixing: Names of ``MIXINGS``, run before the rule in this order.
        state: The ``state`` of the last round's Aggregation; None in the first.
        gram: The Gram matrix to judge by, if it comes from another geometry than the rows'. Its
            extra points are the tensors of ``state``. A rule on columns without mixing takes
            only the reported norms from it.
        **options: The rule's options, listed in ``AGGREGATORS[name].options``.

    Returns:
        The aggregate with each client's weight, the state to carry, and a report.

    Raises:
        ValueError: As ``aggregate``, and if the state or the Gram does not fit.
    """
    if isinstance(mixing, str):
        raise ValueError(f"mixing needs a sequence of names: got {mixing!r}; write ({mixing!r},)")
    rule = _look_up("aggregator", name, AGGREGATORS)
    chain = [_look_up("mixing", each, MIXINGS) for each in mixing]
    return run(updates, rule, chain, f=f, state=state, given=gram, options=options)


def _look_up(what: str, name: str, known: Mapping[str, Rule]) -> Rule:
    """Find a rule by name, or refuse with the names that there are."""
    if name not in known:
        raise ValueError(unknown(what, name, known))
    return known[name]
