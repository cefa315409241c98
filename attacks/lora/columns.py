"""Views of each module's B and A in an adapter row, and their products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from attacks.scene import Scene

if TYPE_CHECKING:
    from torch import Tensor

ROUNDING = 1e-12
"""What a float64 mean of equal rows may be off by, relative: no spread, and no step."""


@dataclass(frozen=True, slots=True)
class Block:
    """One module with both factors in the row.

    Attributes:
        b: Columns of B, row-major (d_out, rank).
        a: Columns of A, row-major (rank, d_in).
        rank: LoRA's r.
        scale: What BA is multiplied by.
    """

    b: slice
    a: slice
    rank: int
    scale: float

    def views(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """View B (d_out, rank) and A (rank, d_in) in a row (d,): what is written there stays."""
        return row[self.b].view(-1, self.rank), row[self.a].view(self.rank, -1)

    def write(self, row: Tensor, b: Tensor, a: Tensor) -> None:
        """Write both factors into a row (d,), in place."""
        row[self.b], row[self.a] = b.reshape(-1), a.reshape(-1)

    def change(self, delta: Tensor, anchor: Tensor) -> Tensor:
        """Compute s ((B + dB)(A + dA) - B A), dense (d_out, d_in), for one float64 delta.

        As s (dB (A + dA) + B dA): nothing as large as BA is subtracted.
        """
        (db, da), (b, a) = self.views(delta), self.views(anchor)
        return self.scale * (db @ (a + da) + b @ da)

    def changes(self, deltas: Tensor, anchor: Tensor) -> Tensor:
        """Stack ``change`` of each of (h, d) deltas, shape (h, d_out, d_in)."""
        return torch.stack([self.change(delta, anchor) for delta in deltas])

    def product(self, row: Tensor) -> Tensor:
        """Compute s B A of a whole row (never a delta), dense (d_out, d_in)."""
        b, a = self.views(row)
        return self.scale * (b @ a)


@dataclass(frozen=True, slots=True)
class Adapter:
    """What attackers know of the adapter that the round began with.

    Attributes:
        anchor: The row, shape (d,), float64.
        blocks: Its modules.
        plain: Columns that belong to none of them, a mask of shape (d,).
    """

    anchor: Tensor
    blocks: tuple[Block, ...]
    plain: Tensor


def adapter(name: str, scene: Scene | None, honest: Tensor) -> Adapter:
    """Read the scene for an attack that moves both factors.

    Args:
        name: The attack, for the words of a refusal.
        scene: With ``factors`` and ``anchor``.
        honest: The rows that the anchor must fit, shape (h, d).

    Returns:
        The anchor and its modules.

    Raises:
        ValueError: If the scene has no factors or no anchor, the anchor has another length, or a
            module has only one factor in the row.
    """
    if scene is None or scene.factors is None:
        raise ValueError(f"{name} needs scene.factors: got None; say which columns are A and B")
    if scene.anchor is None:
        raise ValueError(
            f"{name} needs scene.anchor: got None; hand over the adapter the round began with"
        )
    d = honest.shape[1]
    if scene.anchor.shape != (d,):
        raise ValueError(
            f"{name} needs scene.anchor of the updates' length, ({d},): got "
            f"{tuple(scene.anchor.shape)}; hand over the row that the updates are measured from"
        )
    modules = scene.factors.modules
    if not modules:
        raise ValueError(f"{name} needs LoRA modules: got none; name an attack on plain updates")
    blocks = []
    plain = torch.ones(d, dtype=torch.bool, device=honest.device)
    for k, module in enumerate(modules):
        if module.a is None or module.b is None:
            left = "A" if module.b is None else "B"
            raise ValueError(
                f"{name} needs both factors trained: got {left} alone in module {k}; train both "
                "in one round, or name an attack that needs no gauge"
            )
        block = Block(slice(*module.b), slice(*module.a), module.rank, module.scale)
        plain[block.b] = plain[block.a] = False
        blocks.append(block)
    return Adapter(scene.anchor.detach().to(honest.device, torch.float64), tuple(blocks), plain)


def need_rows(name: str, honest: Tensor, least: int = 2) -> None:
    """Refuse an attack that measures a spread on too few rows."""
    if len(honest) < least:
        raise ValueError(
            f"{name} needs >= {least} visible updates for a spread: got {len(honest)}; "
            "widen what the attackers see"
        )


def rms_norm(rows: Sequence[Tensor] | Tensor) -> float:
    """Root of the mean squared length of the rows, float64."""
    total = sum(float(row.double().square().sum()) for row in rows)
    return float((total / len(rows)) ** 0.5)
