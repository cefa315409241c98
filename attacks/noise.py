"""Seeded noise that is the same wherever the updates live."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def need_generator(
    name: str, generator: torch.Generator | None, *, instead: str = ""
) -> torch.Generator:
    """Return the generator; refuse to draw from the global one.

    Args:
        name: The attack that draws, for the message.
        generator: What it was given.
        instead: What may be done in place of passing one, if anything.

    Raises:
        ValueError: If ``generator`` is None.
    """
    if generator is None:
        way_out = f", or {instead}" if instead else ""
        raise ValueError(
            f"{name} needs a generator: got None; pass torch.Generator().manual_seed(seed){way_out}"
        )
    return generator


def normal(
    name: str, shape: tuple[int, ...], *, generator: torch.Generator | None, like: Tensor
) -> Tensor:
    """Draw N(0, 1) in float64 on the generator's device, then move it to that of ``like``.

    Args:
        name: The attack that draws, for the message.
        shape: Shape of the draw.
        generator: Source of the noise; required, never the global one.
        like: A tensor on the device that is wanted.

    Returns:
        Shape ``shape``, float64, on the device of ``like``.

    Raises:
        ValueError: If ``generator`` is missing.
    """
    seeded = need_generator(name, generator)
    drawn = torch.randn(shape, generator=seeded, dtype=torch.float64, device=seeded.device)
    return drawn.to(like.device)


def uniform(
    name: str, shape: tuple[int, ...], *, generator: torch.Generator | None, like: Tensor
) -> Tensor:
    """Draw from [0, 1), otherwise as ``normal`` does.

    Raises:
        ValueError: If ``generator`` is missing.
    """
    seeded = need_generator(name, generator)
    drawn = torch.rand(shape, generator=seeded, dtype=torch.float64, device=seeded.device)
    return drawn.to(like.device)
