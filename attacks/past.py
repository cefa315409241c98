"""Checks on the attackers' knowledge of earlier rounds.

Each key of ``Scene.memory`` begins with the name of its attack; a tensor there with a last
dimension of d holds rows of the same space as the updates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attacks.scene import Scene

if TYPE_CHECKING:
    from torch import Tensor


def last_step(scene: Scene, *, like: Tensor) -> Tensor | None:
    """Return what the last outer step added, shape (d,), float64, on the device of ``like``.

    Args:
        scene: What is known beside the round's updates.
        like: The visible updates, shape (h, d).

    Returns:
        The step; None in the first round.

    Raises:
        ValueError: If it is no finite row of d values.
    """
    if scene.last is None:
        return None
    if scene.last.ndim != 1:
        raise ValueError(f"scene.last needs shape (d,): got {tuple(scene.last.shape)}")
    return _checked("scene.last", scene.last, like).to(like.device, torch.float64)


def recall(scene: Scene, key: str, *, like: Tensor) -> Tensor | None:
    """Return the row or rows kept under ``key``, on the device and in the dtype of ``like``.

    Args:
        scene: What holds the memory; not modified.
        key: Name in the memory.
        like: The visible updates, shape (h, d).

    Returns:
        A tensor of shape (..., d); None where nothing is kept.

    Raises:
        ValueError: If it does not fit the updates of this round.
    """
    kept = scene.memory.get(key)
    return None if kept is None else _checked(f"memory {key!r}", kept, like).to(like)


def _checked(name: str, rows: Tensor, like: Tensor) -> Tensor:
    d = like.shape[1]
    if rows.ndim == 0 or rows.shape[-1] != d:
        raise ValueError(
            f"{name} needs d={d} columns, as this round's updates have: got {tuple(rows.shape)}; "
            "keep one memory for each set of columns that is sent"
        )
    if not bool(torch.isfinite(rows).all()):
        raise ValueError(f"{name} needs finite values: got NaN or infinity")
    return rows.detach()
