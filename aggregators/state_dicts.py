"""Conversion between state dicts and rows, for other training loops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeGuard

import torch

if TYPE_CHECKING:
    from torch import Tensor

StateDict = Mapping[str, "Tensor"]


def are(updates: object) -> TypeGuard[Sequence[StateDict]]:
    """Whether these are state dicts, given as a list in place of rows."""
    return isinstance(updates, list | tuple) and bool(updates) and isinstance(updates[0], Mapping)


def flatten(updates: Sequence[StateDict]) -> Tensor:
    """Lay each client's tensors end to end, by sorted name, one client per row.

    Args:
        updates: One mapping per client, all with the same names, shapes and one floating dtype.

    Returns:
        The rows, shape (n, d).

    Raises:
        ValueError: Naming the client and the tensor that does not fit. The order is that of the
            names, never a client's own: else a client that swaps two layers of the same shape
            goes undetected.
    """
    if not updates:
        raise ValueError("updates needs at least one state dict: got none")
    first = updates[0]
    for client, update in enumerate(updates):
        if set(update) != set(first):
            odd = sorted(set(update) ^ set(first))[0]
            raise ValueError(
                f"updates needs the same names from every client: client {client} and client 0 "
                f"differ in {odd!r}"
            )
        for name, tensor in update.items():
            _check(client, name, tensor, first)
    return torch.stack(
        [
            torch.cat([update[name].detach().reshape(-1) for name in sorted(first)])
            for update in updates
        ]
    )


def unflatten(row: Tensor, like: StateDict) -> dict[str, Tensor]:
    """Cut a row of shape (d,) into tensors named, ordered and shaped ``like`` another update."""
    tensors, start = {}, 0
    for name in sorted(like):
        tensors[name] = row[start : start + like[name].numel()].view(like[name].shape)
        start += like[name].numel()
    return {name: tensors[name] for name in like}


def _check(client: int, name: str, tensor: object, first: StateDict) -> None:
    if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
        got = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise ValueError(
            f"updates needs floating tensors: client {client} has {name!r} of {got}; "
            "leave counters and the like out"
        )
    like, any_ = first[name], next(iter(first.values()))
    if tensor.shape != like.shape or tensor.dtype != any_.dtype or tensor.device != any_.device:
        raise ValueError(
            f"updates needs {name!r} as {any_.dtype} {tuple(like.shape)} on {any_.device}: client "
            f"{client} has {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
        )
