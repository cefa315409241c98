"""A client's reply without any framework: named arrays and the fields beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Reply:
    """A reply that a client is about to send.

    Attributes:
        arrays: The delta's tensors by name, float32.
        words: The fields beside the arrays: ``round``, ``base_hash``, ``tokenizer_hash``,
            ``anchor_hash``.
    """

    arrays: Mapping[str, Tensor]
    words: Mapping[str, str | int | float]
