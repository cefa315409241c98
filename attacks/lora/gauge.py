"""Gauge: an honest adapter in another gauge, that is, with other factors of the same product."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attacks.attack import Attack, Option
from attacks.lora.columns import Block, adapter
from attacks.noise import normal
from attacks.scene import Scene
from attacks.statistics import mean
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor

_FORMS = ("scale", "rotate", "sign")


def gauge(
    honest: Tensor,
    *,
    num_attackers: int,
    own: Tensor | None = None,
    generator: torch.Generator | None = None,
    scene: Scene | None = None,
    form: str = "scale",
    c: float = 100.0,
) -> Tensor:
    """Send an honest adapter in another gauge: other factors, the same product.

    With (B, A) the factors that the attacker trained (anchor plus its delta), form "scale" sends
    (cB, A/c), "rotate" (BS, SᵀA) with S another random rotation or reflection in each module,
    "sign" (-B, -A). The attacker's model is unchanged. Rules on factors are what breaks: the mean
    of B times the mean of A is no longer near the mean of the products. A server that measures
    products, or aligns gauges first, sees no difference, and needs to see none.

    The product is the same up to the rounding of the row: A/c is sent as a difference from the
    anchor's A, so that it carries an error of c times the dtype's. Above c = 1e6 in float32, 100
    in bfloat16, the attacker mostly sends noise.

    Args:
        honest: The updates the attackers see, shape (h, d), floating point.
        num_attackers: How many rows to craft.
        own: What each attacker would have sent honestly, shape (num_attackers, d). Without it all
            attackers write the mean of ``honest``, which for one visible row is that row.
        generator: Source of randomness of form "rotate".
        scene: With ``factors`` and ``anchor``.
        form: "scale", "rotate" or "sign".
        c: The factor of form "scale"; not looked at by the others.

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``; plain columns
        as they were.

    Raises:
        ValueError: If a view is malformed, the form is unknown, "rotate" has no generator, or the
            scene lacks the factors or the anchor, or a module has one factor alone.

    Source:
        The gauge freedom (B, A) -> (BS, S⁻¹A) of LoRA (Hu et al. 2021),
        https://arxiv.org/abs/2106.09685; used as an attack here.
    """
    check_view(honest, num_attackers=num_attackers, own=own)
    known = adapter("gauge", scene, honest)
    if form not in _FORMS:
        raise ValueError(f"gauge.form needs one of {', '.join(_FORMS)}: got {form!r}")
    healthy = mean(honest).repeat(num_attackers, 1) if own is None else own.double()
    rows = healthy + known.anchor
    for row in rows:
        for block in known.blocks:
            _turn(row, block, form, c, generator)
    rows -= known.anchor
    rows[:, known.plain] = healthy[:, known.plain]  # as they were, not rounded by the anchor
    return rows.to(honest.dtype)


def _turn(
    row: Tensor, block: Block, form: str, c: float, generator: torch.Generator | None
) -> None:
    """Write one module of a whole row, in place, in the other gauge."""
    b, a = block.views(row)
    if form == "rotate":
        s = _orthogonal(block.rank, generator, like=row)
        b.copy_(b @ s)
        a.copy_(s.T @ a)
    else:
        factor = c if form == "scale" else -1.0
        b.mul_(factor)
        a.div_(factor)


def _orthogonal(rank: int, generator: torch.Generator | None, *, like: Tensor) -> Tensor:
    """Draw from the orthogonal group, uniformly: QR alone favours some signs."""
    drawn = normal("gauge form=rotate", (rank, rank), generator=generator, like=like)
    q, r = torch.linalg.qr(drawn)
    uniform: Tensor = q * torch.where(r.diagonal() < 0, -1.0, 1.0)
    return uniform


ATTACK = Attack(
    name="gauge",
    summary="an honest adapter in another gauge: (cB, A/c), (BS, S^T A) or (-B, -A)",
    source="gauge freedom of LoRA, Hu et al. 2021, https://arxiv.org/abs/2106.09685",
    level="update",
    goal="harm",
    knowledge=("own",),
    options={
        "form": Option(kind=str, default="scale", choices=_FORMS, summary="which change of gauge"),
        "c": Option(
            kind=float, default=100.0, low=1e-6, high=1e6, summary="B times c, A by c: form=scale"
        ),
    },
    takes=("own", "generator", "scene"),
    needs=("factors",),
    function=gauge,
)
