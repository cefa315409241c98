"""Adapters of a lower rank: the same tensors with fewer rows of A and columns of B."""

from __future__ import annotations

import torch
from torch import Tensor

from fedtune.adapters.layout import Layout

# PEFT's names: A is (r, d_in), B is (d_out, r); an embedding's LoRA has names of its own.
_A, _B = {"lora_A", "lora_embedding_A"}, {"lora_B", "lora_embedding_B"}


def side_of(name: str) -> tuple[str, str] | None:
    """Which module a tensor belongs to, and whether it is its ``a`` or its ``b``.

    None if it is trained whole. In products an embedding's two factors keep their names: A is the
    right one, whichever of the two is drawn.
    """
    words = name.split(".")
    for side, names in (("a", _A), ("b", _B)):
        for place, word in enumerate(words):
            if word in names:
                return ".".join(words[:place]), side
    return None


def narrow(layout: Layout, rank: int) -> Layout:
    """The layout of the same adapter at another rank."""
    shapes = []
    for name, shape in layout.shapes:
        found = side_of(name)
        if found is not None:
            shape = (rank, *shape[1:]) if found[1] == "a" else (shape[0], rank, *shape[2:])
        shapes.append((name, shape))
    return Layout(tuple(shapes))


def widen(row: Tensor, narrow_layout: Layout, whole: Layout) -> Tensor:
    """A row of a lower rank as one of the whole layout: the missing directions are zero.

    Both factors are zero there, so both gradients are, and training leaves them at zero: an adapter
    of rank r then is one of the lower rank, to the bit.
    """
    if narrow_layout == whole:
        return row
    wide = torch.zeros(whole.size, dtype=row.dtype)
    targets = whole.unflatten(wide)
    for name, values in narrow_layout.unflatten(row).items():
        targets[name][tuple(slice(0, size) for size in values.shape)] = values
    return wide


def cut(row: Tensor, whole: Layout, narrow_layout: Layout) -> Tensor:
    """Undo `widen`: the leading directions of a whole row."""
    if narrow_layout == whole:
        return row
    tensors = whole.unflatten(row)
    return narrow_layout.flatten(
        {
            name: tensors[name][tuple(slice(0, size) for size in shape)]
            for name, shape in narrow_layout.shapes
        }
    )
