"""Every random choice of a run, drawn from one seed and the name of what it is for."""

from __future__ import annotations

import hashlib


def derive(seed: int, *purpose: str | int) -> int:
    """A seed for one purpose, below 2**31, unrelated to that of any other purpose.

    Nothing random is ever continued from a previous round, so that a resumed run draws what the
    uninterrupted one would have drawn.

    Args:
        seed: The recipe's seed.
        purpose: What it is for, such as ``("order", client)``.
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
