"""The public calls: from client updates to their aggregate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast, overload

import torch

from aggregators import state_dicts
from aggregators.engine import aggregation
from aggregators.engine.aggregation import Aggregation, Weighing, run
from aggregators.engine.gram import Gram
from aggregators.engine.memory import Memory
from aggregators.engine.plans import Plan
from aggregators.engine.rows import Rows
from aggregators.engine.screening import check_left_out, check_shares
from aggregators.registry import Mixing, plan
from aggregators.state_dicts import StateDict

if TYPE_CHECKING:
    from torch import Tensor

_TAKEN = ("state", "clients", "reference", "client_weights", "generator", "gram")


@overload
def aggregate(
    updates: Rows, name: str, *, f: int, mixing: Sequence[Mixing] = (), **how: object
) -> Tensor: ...


@overload
def aggregate(
    updates: Sequence[StateDict], name: str, *, f: int, mixing: Sequence[Mixing] = (), **how: object
) -> dict[str, Tensor]: ...


def aggregate(
    updates: Rows | Sequence[StateDict],
    name: str,
    *,
    f: int,
    mixing: Sequence[Mixing] = (),
    **how: object,
) -> Tensor | dict[str, Tensor]:
    """Aggregate client updates by a rule of ``AGGREGATORS``.

    Args:
        updates: One client update per row, shape (n, d), floating point; or n rows of shape (d,),
            ``FileRows``, or n state dicts of the same tensors. Never modified.
        name: The rule.
        f: Clients that may be Byzantine, a count.
        mixing: Of ``MIXINGS``, run before the rule in this order: each a name, or a mapping of
            ``name`` and options.
        **how: The rule's options, listed in ``AGGREGATORS[name].options``; and ``state``,
            ``clients``, ``reference``, ``client_weights``, ``generator`` and ``gram`` as in
            ``aggregate_with_report``, which describes them.

    Returns:
        The aggregate, shape (d,), dtype and device of ``updates``, detached; a state dict of state
        dicts.

    Raises:
        ValueError: If too few clients for f, a value is not finite, or a name, option, shape or
            dtype is not one that there is.
    """
    like = updates[0] if state_dicts.are(updates) else None
    rows = state_dicts.flatten(updates) if state_dicts.are(updates) else cast("Rows", updates)
    taken: dict[str, Any] = {key: how.pop(key, None) for key in _TAKEN}
    row = run(
        rows,
        plan(name, mixing=mixing, **how),
        f=f,
        memory=Memory(taken["state"] or {}, taken["clients"]),
        given=taken["gram"],
        reference=taken["reference"],
        generator=taken["generator"],
        shares=taken["client_weights"],
        report=False,
    ).aggregate
    return row if like is None else state_dicts.unflatten(row, like)


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
    left_out: Sequence[int] = (),
    **options: object,
) -> Aggregation:
    """Aggregate client updates, and report weights, distances and state.

    Args:
        updates: As in ``aggregate``.
        name: The rule, one of ``AGGREGATORS``.
        f: Clients that may be Byzantine, a count.
        mixing: As in ``aggregate``.
        state: The ``state`` of the last round's Aggregation; None in the first.
        clients: A lasting number for each row, whole, below 2**63, for rules with a history; 0 to
            n-1 unless given.
        reference: The server's own update, shape (d,), for rules that compare with one (fltrust).
        client_weights: The owner's own weights, shape (n,), positive, in any unit, for rules that
            average their clients one by one, without mixing. The f largest must stay under half
            of the sum, where the rule needs f. Never what a client reports of itself.
        generator: Where bucketing shuffles and noise is drawn; both are refused without one.
        gram: The Gram matrix to judge by, if it comes from another geometry than the rows'. Its
            extra points are the rule's memory or reference. A rule on columns without mixing
            takes only the reported norms from it.
        left_out: Rows known to be bad from elsewhere, which weigh nothing: mixings and rule see
            the others, with the same f.
        **options: The rule's options, listed in ``AGGREGATORS[name].options``.

    Returns:
        The aggregate with each client's weight, the state to carry, and a report.

    Raises:
        ValueError: As ``aggregate``, and if the state or the Gram does not fit, or the rest is not
            defined at this f on the rows that are not left out.
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
        left_out=left_out,
    )


def weigh(
    gram: Gram,
    plan: Plan,
    *,
    f: int,
    generator: torch.Generator | None = None,
    client_weights: Tensor | None = None,
    left_out: Sequence[int] = (),
) -> Weighing:
    """Find the weights of a plan from a Gram matrix alone, for points of any kind.

    Args:
        gram: The clients' Gram, from any geometry, with the rule's extra points.
        plan: As ``plan`` returns it.
        f: Clients that may be Byzantine, a count.
        generator: Where a rule or a mixing draws.
        client_weights: The owner's weights, shape (n,).
        left_out: As in ``aggregate_with_report``.

    Returns:
        The weights over clients and extra points; None for a rule on columns, of which only the
        mixing matrix is known.

    Raises:
        ValueError: If too few clients for f, or the weights do not fit.
    """
    plan.check_clients(gram.num_clients, f)
    shares = check_shares(client_weights, gram.num_clients, plan, f)
    check_left_out(left_out, gram.num_clients, plan, f=f, shares=shares)
    return aggregation.weigh(gram, plan, f=f, generator=generator, shares=shares, left_out=left_out)
