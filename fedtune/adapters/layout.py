"""Named tensors as one float32 row, and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Which columns of a row are which tensor: names in sorted order, laid end to end.

    The order is the layout's, never that of a mapping that came from elsewhere: a client that
    swaps two names of one shape would else stand at distance zero with swapped layers.
    """

    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Layout:
        """The layout of these tensors."""
        return cls(tuple((name, tuple(tensors[name].shape)) for name in sorted(tensors)))

    @cached_property
    def size(self) -> int:
        """Columns in a row, d."""
        return sum(prod(shape) for _, shape in self.shapes)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of names and shapes, in hex."""
        return hashlib.sha256(json.dumps(self.shapes).encode()).hexdigest()

    def select(self, names: Collection[str]) -> Layout:
        """The layout of these tensors alone, in this layout's order.

        Raises:
            ValueError: If a name is not the layout's, or there is none.
        """
        known = {name for name, _ in self.shapes}
        if foreign := sorted(set(names) - known):
            raise ValueError(f"no tensor {foreign[0]!r} among the {len(known)} of the adapter")
        if not names:
            raise ValueError("needs the name of at least one tensor; got none")
        return Layout(tuple((name, shape) for name, shape in self.shapes if name in set(names)))

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Lay the tensors end to end.

        Args:
            tensors: Exactly the layout's names and shapes, any floating dtype.

        Returns:
            A fresh float32 row on the CPU, shape (d,).

        Raises:
            ValueError: If a name or a shape is not the layout's.
        """
        check_same_names(tensors, [name for name, _ in self.shapes])
        for name, shape in self.shapes:
            if tuple(tensors[name].shape) != shape:
                raise ValueError(f"{name} needs shape {shape}; got {tuple(tensors[name].shape)}")
        row = torch.empty(self.size, dtype=torch.float32)
        for name, part in self.unflatten(row).items():
            part.copy_(tensors[name].detach())
        return row

    def unflatten(self, row: Tensor) -> dict[str, Tensor]:
        """View a row as the named tensors; nothing is copied.

        Args:
            row: Shape (d,).

        Raises:
            ValueError: If the row has another length.
        """
        if row.shape != (self.size,):
            raise ValueError(f"the row needs shape ({self.size},); got {tuple(row.shape)}")
        tensors, start = {}, 0
        for name, shape in self.shapes:
            tensors[name] = row[start : start + prod(shape)].view(shape)
            start += prod(shape)
        return tensors


def check_same_names(got: Mapping[str, object], need: list[str]) -> None:
    """Refuse a mapping that lacks a name or brings one too many.

    Raises:
        ValueError: Naming the first of each kind.
    """
    missing, extra = sorted(set(need) - set(got)), sorted(set(got) - set(need))
    if missing or extra:
        parts = [f"lacks {name!r}" for name in missing[:1]]
        parts += [f"brings {name!r}" for name in extra[:1]]
        raise ValueError(
            f"needs exactly the {len(need)} tensors asked for: got {len(got)}, "
            f"{' and '.join(parts)}"
        )
