"""Ties: numbers that differ by rounding only are equal, so that the lowest index decides."""

import torch
from torch import Tensor


def levels(values: Tensor, *, slack: float = 1e-12, scale: Tensor | None = None) -> Tensor:
    """Number the distinct values from 0 for the least, those that tie alike.

    Sorted, a value is a new level where it is above the one before by more than the slack times
    itself, or times the scale. Rows clipped to one radius have one norm, whatever its last bits.

    Args:
        values: Shape (n,), floating.
        slack: The share that is rounding.
        scale: What the values were rounded at, where that is more than themselves.

    Returns:
        Levels, shape (n,), int64. Sort them stably for an order of the clients.
    """
    ordered, places = values.sort(stable=True)
    rounding = slack * (ordered[1:].abs() if scale is None else scale)
    found = torch.zeros_like(places)
    found[places[1:]] = (ordered.diff() > rounding).cumsum(dim=0)
    return found
