"""Checks on a caller's input before anything is computed; the input is never modified."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from aggregators.engine.files import FileRows
from aggregators.engine.rows import Rows, device_of, dtype_of, num_columns

if TYPE_CHECKING:
    from torch import Tensor

    from aggregators.engine.plans import Plan

DTYPES = ("float16", "bfloat16", "float32", "float64")


def check_rows(updates: Rows) -> Rows:
    """Refuse input that is no (n, d) tensor, no sequence of n rows of shape (d,), and no files."""
    if isinstance(updates, FileRows):
        return updates
    if isinstance(updates, list | tuple) and all(isinstance(row, torch.Tensor) for row in updates):
        return _check_sequence(updates)
    if not isinstance(updates, torch.Tensor):
        raise TypeError(
            f"updates needs to be a torch tensor: got {type(updates).__name__}; "
            "stack the clients' updates into one (n, d) tensor, or give a list of n tensors (d,)"
        )
    if updates.ndim != 2 or updates.layout != torch.strided:
        raise ValueError(
            f"updates needs the shape (n, d), dense: got {tuple(updates.shape)}, "
            f"{updates.layout}; flatten each client's update to one row"
        )
    return updates.detach()


def _check_sequence(updates: Sequence[Tensor]) -> list[Tensor]:
    """Refuse rows of several shapes, dtypes or devices."""
    for k, row in enumerate(updates):
        first = updates[0]
        alike = (row.shape, row.dtype, row.device) == (first.shape, first.dtype, first.device)
        if not alike or row.ndim != 1 or row.layout != torch.strided:
            raise ValueError(
                "updates needs rows of one shape (d,), dtype and device, dense: got "
                f"{tuple(row.shape)}, {row.dtype}, {row.device}, {row.layout} for row {k}; "
                "flatten each client's update to one row"
            )
    return [row.detach() for row in updates]


def check_values(updates: Rows) -> None:
    """Refuse dtypes that the engine cannot sum, and rows without coordinates."""
    dtype = dtype_of(updates)
    if not _is_supported(dtype):
        names = ", ".join(DTYPES)
        raise ValueError(f"updates needs a floating dtype ({names}): got {dtype}; convert it first")
    if num_columns(updates) == 0:
        raise ValueError(
            f"updates needs d >= 1 coordinates: got the empty shape ({len(updates)}, 0); "
            "send at least one"
        )


def check_finite(rows: Rows, squares: Tensor) -> None:
    """Refuse rows that are not finite, or have a squared norm beyond float64."""
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


def check_point(point: Tensor | None, rows: Rows, owner: str, name: str) -> Tensor:
    """Refuse an extra point that is no finite row like the others; return it on their device."""
    if point is None:
        raise ValueError(f"{owner} needs the server's own update: got no {name}; hand in {name}=")
    right = point.shape == (num_columns(rows),) and _is_supported(point.dtype)
    if not right or not point.isfinite().all():
        raise ValueError(
            f"{owner} needs a finite floating {name} of shape {(num_columns(rows),)}: "
            f"got {point.dtype} {tuple(point.shape)}; hand in the state of the last round"
        )
    return point.detach().to(device_of(rows))


def check_shares(shares: Tensor | None, n: int, plan: Plan, f: int) -> Tensor | None:
    """Bring the owner's weights to sum to one, or refuse them.

    Raises:
        ValueError: If the rule has no use for weights, they are not n positive finite numbers, or
            the f largest make up half of the sum: then f attackers could be the majority.
    """
    if shares is None:
        return None
    rule = plan.last.rule
    if not rule.takes_shares:
        raise ValueError(
            f"{rule.name} takes no client weights: it does not average its clients one by one; "
            "leave them out, or name mean, geometric_median or centered_clipping"
        )
    if plan.chain:
        raise ValueError(
            "client weights need a rule without mixing: a mixed row belongs to several clients; "
            "leave out one of the two"
        )
    given = torch.as_tensor(shares, dtype=torch.float64).detach().cpu()
    if given.shape != (n,) or not given.isfinite().all() or not (given > 0).all():
        raise ValueError(
            f"client weights need {n} positive finite numbers, one per row: got "
            f"{tuple(given.shape)}, {given.tolist()[:8]}"
        )
    given = given / given.sum()
    if f and rule.needs_f and float(given.sort().values[n - f :].sum()) >= 0.5:
        raise ValueError(
            f"client weights need the f={f} largest to stay under half of the sum: got "
            f"{float(given.sort().values[n - f :].sum()):.3f}; lower them or f"
        )
    return given


def check_left_out(
    left_out: Sequence[int], n: int, plan: Plan, *, f: int, shares: Tensor | None = None
) -> None:
    """Refuse to leave out rows that do not exist, or rows that the rule cannot do without.

    Raises:
        ValueError: If an index is no row's, none would stay, the plan is not defined at this f on
            those that would, or the rule judges by a history or takes the owner's weights.
    """
    if not left_out:
        return
    if plan.last.rule.memory == "history" or shares is not None:
        what = "client weights" if shares is not None else plan.last.rule.name
        raise ValueError(
            f"{what} cannot go with rows left out: they are matched to the rows one by one; "
            "do without one of the two"
        )
    if not all(0 <= i < n for i in left_out) or len(set(left_out)) >= n:
        raise ValueError(
            f"left_out needs row numbers below n={n}, and one row at least that stays: got "
            f"{sorted(left_out)}"
        )
    stay = n - len(set(left_out))
    if not plan.is_defined(stay, f):
        raise ValueError(
            f"left_out needs to leave rows enough for {plan.last.rule.name} at f={f}: got {stay} "
            f"of {n}; leave out fewer: a client that is left out may be honest, so f stays"
        )


def _is_supported(dtype: torch.dtype) -> bool:
    return str(dtype).removeprefix("torch.") in DTYPES
