"""State dicts of several parts in one, by a prefix; points of product space among them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from aggregators.geometry import LowRank


def named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, each under ``prefix/name``."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `named`: the tensors under a prefix, without it."""
    start = f"{prefix}/"
    return {
        name.removeprefix(start): tensor
        for name, tensor in tensors.items()
        if name.startswith(start)
    }


def pack(name: str, point: LowRank) -> dict[str, Tensor]:
    """A point of product space as named tensors."""
    tensors = {f"{name}/plain": point.plain.clone()}
    for k, (left, right) in enumerate(point.pairs):
        tensors |= {f"{name}/{k}/left": left.clone(), f"{name}/{k}/right": right.clone()}
    return tensors


def unpack(name: str, tensors: Mapping[str, Tensor]) -> LowRank | None:
    """Undo `pack`; None if there is no such point."""
    if f"{name}/plain" not in tensors:
        return None
    count = sum(key.startswith(f"{name}/") and key.endswith("/left") for key in tensors)
    pairs = tuple((tensors[f"{name}/{k}/left"], tensors[f"{name}/{k}/right"]) for k in range(count))
    return LowRank(pairs, tensors[f"{name}/plain"])
