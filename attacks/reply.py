"""A reply as a protocol attack sees it: named arrays and words, nothing of any framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Reply:
    """What a client is about to send.

    Attributes:
        arrays: The delta's tensors by name, float32.
        words: What it says of itself: ``round``, ``base_hash``, ``tokenizer_hash``,
            ``anchor_hash``.
    """

    arrays: Mapping[str, Tensor]
    words: Mapping[str, str | int | float]
