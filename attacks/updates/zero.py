"""Zeros: an update without content."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attacks.attack import Attack
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor


def zero(honest: Tensor, *, num_attackers: int) -> Tensor:
    """Send an update of zeros, the anchor as it came.

    The plain free rider: it draws its share of the weights for no work. The aggregate shrinks
    toward zero by that share, which slows the training and turns nothing. Rules that look at
    distances pick it when the honest updates are short beside their spread.

    Args:
        honest: The updates the attackers see, shape (h, d), floating point; only their shape, dtype
            and device are looked at.
        num_attackers: How many rows to craft.

    Returns:
        Zeros, shape (num_attackers, d), dtype and device of ``honest``.

    Raises:
        ValueError: If a view is malformed.

    Source:
        Lin, Du, Liu 2019 (Free-riders in Federated Learning), https://arxiv.org/abs/1911.12560
    """
    check_view(honest, num_attackers=num_attackers)
    return torch.zeros(num_attackers, honest.shape[1], dtype=honest.dtype, device=honest.device)


ATTACK = Attack(
    name="zero",
    summary="an update of zeros",
    source="Lin, Du, Liu 2019 (Free-riders in Federated Learning), https://arxiv.org/abs/1911.12560",
    level="update",
    goal="shirk",
    knowledge=("own", "fellows", "all"),
    function=zero,
)
