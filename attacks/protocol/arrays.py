"""How the forgeries touch named arrays: one of them, or one value of one, drawn by the seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, get_args

import torch

if TYPE_CHECKING:
    from torch import Tensor

Where = Literal["one", "all"]
WHERE: tuple[str, ...] = get_args(Where)


def put(
    arrays: Mapping[str, Tensor], value: float, where: Where, generator: torch.Generator
) -> dict[str, Tensor]:
    """Copies of the arrays with a value in place of one number, or of all.

    Args:
        arrays: By name, float32. Not modified.
        value: What is put there.
        where: "one" draws the place, each number of all the arrays as likely as any other.
        generator: Source of randomness, on the CPU.

    Returns:
        New arrays of the same names, order, shapes and dtypes.

    Raises:
        ValueError: If the arrays hold no number at all, or ``where`` is another word.
    """
    if where not in WHERE:
        raise ValueError(f"where needs one of {', '.join(WHERE)}: got {where!r}")
    _refuse_empty(arrays)
    flat = torch.cat([array.flatten() for array in arrays.values()])
    if where == "all":
        flat.fill_(value)
    else:
        flat[int(torch.randint(flat.numel(), (), generator=generator))] = value
    parts = torch.split_with_sizes(flat, [array.numel() for array in arrays.values()])
    return {
        name: part.view(array.shape)
        for (name, array), part in zip(arrays.items(), parts, strict=True)
    }


def largest(arrays: Mapping[str, Tensor]) -> str:
    """The name of the array with the most numbers; of several, the first in the sorted order.

    Raises:
        ValueError: If the arrays hold no number at all: nothing of such a reply can be forged.
    """
    _refuse_empty(arrays)
    return max(sorted(arrays), key=lambda name: arrays[name].numel())


def _refuse_empty(arrays: Mapping[str, Tensor]) -> None:
    if not any(array.numel() for array in arrays.values()):
        raise ValueError(f"a forged reply needs numbers to forge: got {len(arrays)} arrays of none")
