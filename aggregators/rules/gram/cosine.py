"""Angles between the updates, from the Gram matrix alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from aggregators.engine.gram import Gram

if TYPE_CHECKING:
    from torch import Tensor

# A distance is a sum of larger numbers. Below this share of their squares it is rounding, and
# counts as zero: updates of one direction are at distance 0, whatever their lengths.
_ROUNDING = 1e-14


def cosine_distances(gram: Gram) -> Tensor:
    """Measure one minus the cosine between each two clients.

    Every client is brought to the length of the Gram's reference row, and the squared distance
    there is read: on a sphere it is 2 * radius² * (1 - cos). Subtracting a cosine from one would
    leave 1e-16 of rounding, twice the distance of directions 1e-8 apart; near the reference row,
    as under a common offset, this keeps their digits. A client shorter than 1e-7 of the reference
    row is 0 to the Gram.

    Args:
        gram: The clients' Gram.

    Returns:
        Distances from 0 to 2, shape (n, n), float64, symmetric, zero diagonal. A zero row has no
        direction: it is at distance 1 from every other.
    """
    norms = gram.norms()
    reference = gram.centred[-1, -1].sqrt()  # the origin's distance to the reference row
    radius = reference if reference > 0 else norms.max()
    if radius == 0:
        radius = torch.ones((), dtype=torch.float64)
    scale = torch.where(norms > 0, radius / norms, 0.0)
    lengths = gram.centred.diagonal().clamp(min=0).sqrt()
    summands = (scale * lengths[: len(scale)] + (1 - scale).abs() * lengths[-1]).square()
    squares = gram.mixed(torch.diag(scale)).squared_distances()
    rounding = _ROUNDING * (summands[:, None] + summands[None, :])
    distances = torch.where(squares > rounding, squares / (2 * radius.square()), 0.0)
    distances[norms == 0] = 1
    distances[:, norms == 0] = 1
    return distances.fill_diagonal_(0)
