"""Ties: numbers that differ by rounding only are equal, so that the lowest index decides.

Every rule that picks one of several goes by this. Of what is equal by definition, as the scores
of symmetric or mixed rows are, two machines compute other last bits; a choice between them would
be a machine's, not the rule's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

# Numbers that agree to this share of themselves are equal. Krum's scores after NNM twice, at an
# offset of up to 1e6 spreads, were rounded by 1.4e-12 at most; of thirty independent clients' two
# come this close twice in a million rounds.
TIE = 1e-9
# Seen from a payload of 1e8 all others lie equally far, to 1e-9: what is measured from it, and
# decides among the others, is compared to more digits.
FAR_TIE = 1e-12


def levels(values: Tensor, *, share: float = TIE, floor: float | Tensor = 0.0) -> Tensor:
    """Number the distinct values from 0 for the least, those that tie alike.

    Sorted, a value is a new level where it is above the one before by more than that share of
    itself plus the floor.

    Args:
        values: Shape (..., n), floating, not negative.
        share: Of a value, what is rounding.
        floor: What is rounding, where the values were computed from larger numbers.

    Returns:
        Levels along the last dimension, shape (..., n), int64.
    """
    ordered, places = values.sort(dim=-1, stable=True)
    apart = ordered.diff(dim=-1) > share * ordered[..., 1:].abs() + floor
    return torch.zeros_like(places).scatter_(-1, places[..., 1:], apart.cumsum(dim=-1))


def in_order(values: Tensor, *, share: float = TIE, floor: float | Tensor = 0.0) -> Tensor:
    """Indices from the least value up along the last dimension; of equal ones the lowest first."""
    return levels(values, share=share, floor=floor).sort(dim=-1, stable=True).indices


def first_least(values: Tensor) -> int:
    """The lowest index of the values, shape (n,), not negative, that equal the least."""
    return int((values <= values.min() * (1 + TIE)).nonzero()[0])
