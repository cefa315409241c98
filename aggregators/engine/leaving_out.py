"""Rows that are left out: the rest of a plan runs as if they were absent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def keep_others(n: int, left_out: Sequence[int]) -> Tensor:
    """The (n - k, n) matrix that keeps the rows which are not left out, in their order.

    Nothing replaces the rows that are left out. A mean of the others would be partly made of
    attackers that are still there, and would carry a huge row's share past a rule that drops the
    row itself.

    Raises:
        ValueError: If none would be left.
    """
    kept = [i for i in range(n) if i not in set(left_out)]
    if not kept:
        raise ValueError(f"needs a row that stays: got all {n} left out")
    return torch.eye(n, dtype=torch.float64)[kept]
