"""Byzantine-robust aggregation of client updates: (n, d) -> (d,), in pure torch.

>>> import torch, aggregators
>>> updates = torch.tensor([[1.0], [2.0], [3.0], [1e8]])
>>> aggregators.aggregate(updates, "trimmed_mean", f=1)
tensor([2.5000])

A rule works on the Gram matrix of the updates or on their columns; a mixing runs before either.
Everything that there is stands in ``AGGREGATORS`` and ``MIXINGS``.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from aggregators import (
    arc,
    bucketing,
    bulyan,
    caf,
    centered_clipping,
    cge,
    clipping,
    dnc,
    flame,
    fltrust,
    foolsgold,
    geometric_median,
    krum,
    mda,
    meamed,
    mean,
    median,
    minimum_variance,
    multi_krum,
    nnm,
    norm_clip,
    phocas,
    rlr,
    sign_majority,
    smea,
    trimmed_mean,
)
from aggregators.aggregation import Aggregation, Plan, Step, run
from aggregators.gram import Gram
from aggregators.memory import Memory
from aggregators.rows import Rows
from aggregators.rule import Option, Rule, unknown

__all__ = [
    "AGGREGATORS",
    "MIXINGS",
    "Aggregation",
    "Gram",
    "Option",
    "Plan",
    "Rule",
    "aggregate",
    "aggregate_with_report",
    "plan",
]

AGGREGATORS: dict[str, Rule] = {
    "mean": mean.RULE,
    "median": median.RULE,
    "trimmed_mean": trimmed_mean.RULE,
    "krum": krum.RULE,
    "multi_krum": multi_krum.RULE,
    "geometric_median": geometric_median.RULE,
    "centered_clipping": centered_clipping.RULE,
    "mda": mda.RULE,
    "minimum_variance": minimum_variance.RULE,
    "smea": smea.RULE,
    "caf": caf.RULE,
    "cge": cge.RULE,
    "dnc": dnc.RULE,
    "fltrust": fltrust.RULE,
    "foolsgold": foolsgold.RULE,
    "flame": flame.RULE,
    "norm_clip": norm_clip.RULE,
    "meamed": meamed.RULE,
    "phocas": phocas.RULE,
    "bulyan": bulyan.RULE,
    "sign_majority": sign_majority.RULE,
    "rlr": rlr.RULE,
}

MIXINGS: dict[str, Rule] = {
    "nnm": nnm.RULE,
    "bucketing": bucketing.RULE,
    "clipping": clipping.RULE,
    "arc": arc.RULE,
}


Mixing = str | Mapping[str, object]


def aggregate(
    updates: Rows,
    name: str,
    *,
    f: int,
    mixing: Sequence[Mixing] = (),
    state: Mapping[str, Tensor] | None = None,
    clients: Sequence[int] | None = None,
    reference: Tensor | None = None,
    client_weights: Tensor | None = None,
    generator: torch.Generator | None = None,
    gram: Gram | None = None,
    **options: object,
) -> Tensor:
    """Aggregate client updates by a rule of ``AGGREGATORS``.

    Args:
        updates: One client update per row, shape (n, d), floating point; never modified.
        name: The rule.
        f: Clients that may be Byzantine, a count.
        mixing: Of ``MIXINGS``, run before the rule in this order: each a name, or a mapping of
            ``name`` and options.
        state: As in ``aggregate_with_report``, which also returns the next one.
        clients: As in ``aggregate_with_report``.
        reference: The server's own update, shape (d,), for rules that compare with it.
        client_weights: The owner's weights, shape (n,), for rules that average: never a number
            that a client reports.
        generator: Where a rule or a mixing draws.
        gram: As in ``aggregate_with_report``.
        **options: The rule's options, listed in ``AGGREGATORS[name].options``.

    Returns:
        The aggregate, shape (d,), dtype and device of ``updates``, detached.

    Raises:
        ValueError: If too few clients for f, a value is not finite, or a name, option, shape or
            dtype is not one that there is.
    """
    return aggregate_with_report(
        updates,
        name,
        f=f,
        mixing=mixing,
        state=state,
        clients=clients,
        reference=reference,
        client_weights=client_weights,
        generator=generator,
        gram=gram,
        **options,
    ).aggregate


def aggregate_with_report(
    updates: Rows,
    name: str,
    *,
    f: int,
    mixing: Sequence[Mixing] = (),
    state: Mapping[str, Tensor] | None = None,
    clients: Sequence[int] | None = None,
    reference: Tensor | None = None,
    client_weights: Tensor | None = None,
    generator: torch.Generator | None = None,
    gram: Gram | None = None,
    **options: object,
) -> Aggregation:
    """Aggregate client updates, and say how.

    Args:
        updates: As in ``aggregate``.
        name: The rule, one of ``AGGREGATORS``.
        f: Clients that may be Byzantine, a count.
        mixing: As in ``aggregate``.
        state: The ``state`` of the last round's Aggregation; None in the first.
        clients: A lasting number for each row, for rules with a history; 0 to n-1 unless given.
        reference: As in ``aggregate``.
        client_weights: As in ``aggregate``.
        generator: As in ``aggregate``.
        gram: The Gram matrix to judge by, if it comes from another geometry than the rows'. Its
            extra points are the rule's memory or reference. A rule on columns without mixing
            takes only the reported norms from it.
        **options: The rule's options, listed in ``AGGREGATORS[name].options``.

    Returns:
        The aggregate with each client's weight, the state to carry, and a report.

    Raises:
        ValueError: As ``aggregate``, and if the state or the Gram does not fit.
    """
    return run(
        updates,
        plan(name, mixing=mixing, **options),
        f=f,
        memory=Memory(state or {}, clients),
        given=gram,
        reference=reference,
        generator=generator,
        shares=client_weights,
    )


def plan(name: str, *, mixing: Sequence[Mixing] = (), **options: object) -> Plan:
    """Look up a rule and the mixings before it, and check their options.

    Returns:
        The plan, which knows the fewest clients that it needs for an f.

    Raises:
        ValueError: If a name or an option is not one that there is, or the mixings and the rule
            do not go together.
    """
    if isinstance(mixing, str | Mapping):
        raise ValueError(f"mixing needs a sequence of names: got {mixing!r}; write ({mixing!r},)")
    rule = _look_up("aggregator", name, AGGREGATORS)
    chain = [_mixing(each) for each in mixing]
    if chain and rule.memory == "history":
        raise ValueError(
            f"{name} takes no mixing: it judges each client by its own history, and a mixed row "
            "has none; leave the mixing out"
        )
    if rule.first is not None:
        chain.append(Step(rule.first, {}))
    return Plan(tuple(chain), Step(rule, rule.check_options(options)))


def _mixing(given: Mixing) -> Step:
    options = dict(given) if isinstance(given, Mapping) else {"name": given}
    rule = _look_up("mixing", str(options.pop("name", "")), MIXINGS)
    return Step(rule, rule.check_options(options))


def _look_up(what: str, name: str, known: Mapping[str, Rule]) -> Rule:
    """Find a rule by name, or refuse with the names that there are."""
    if name not in known:
        raise ValueError(unknown(what, name, known))
    return known[name]
