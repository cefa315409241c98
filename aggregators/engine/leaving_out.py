"""Rows that are left out: the rest of a plan runs as though they had never come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def keep_others(n: int, gone: Sequence[int]) -> Tensor:
    """The (n - k, n) matrix that takes the rows which are not among k gone, in their order.

    Nothing stands in for those that are gone. A mean of the others would: of others among whom
    liars may be left, and it would carry a huge one's share past a rule that drops the liar itself.

    Raises:
        ValueError: If none would be left.
    """
    kept = [i for i in range(n) if i not in set(gone)]
    if not kept:
        raise ValueError(f"needs a row that stays: got all {n} left out")
    return torch.eye(n, dtype=torch.float64)[kept]
