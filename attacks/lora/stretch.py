"""Stretch: a deviation that is small in products and large in the factors of the server's gauge."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from attacks.attack import Attack, Option
from attacks.lora.columns import Adapter, Block, adapter, need_rows, rms_norm
from attacks.lora.factoring import in_row_space
from attacks.noise import need_generator, normal
from attacks.scene import Scene
from attacks.statistics import mean, repeat
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor


def stretch(
    honest: Tensor,
    *,
    num_attackers: int,
    generator: torch.Generator | None = None,
    scene: Scene | None = None,
    stretch: float = 2.7,
    budget: float = 1.0,
) -> Tensor:
    """Turn one direction of A nearly out of the anchor's row space, and put the deviation there.

    Per module, with c = 1 / stretch: A is the anchor's, but one of its directions q is sent as
    ``v = c q + sqrt(1 - c²) w``, w outside its row space. B is such that the product is the honest
    mean's, but ``x vᵀ`` stands where ``l qᵀ`` stood, x against the honest change of that direction
    and as long as leaves the product at ``budget`` times the honest distance from the mean (root
    mean square, of that module). By distances between products the attacker is an honest client.

    A server that brings it to the anchor's gauge writes A's direction as ``c (a q) v``: shorter by
    c, so that B has x / c behind it. Combined as products the attacker contributes x. Combined as
    factors, its B meets the mean of A, in which the direction q has its full length, and it
    contributes up to x / c. Only the bound on the stretch limits this.

    q is the direction, of those in the honest mean's product, in which the deviation gains most:
    |x| |P q|. A module where the mean is too strong in all of them, or where its A has moved too
    far, stays at the honest mean. Of d_out < r outputs a product has d_out directions.

    Args:
        honest: The updates the attackers see, shape (h, d) with h >= 2, floating point.
        num_attackers: How many rows to craft.
        generator: Source of randomness, for w.
        scene: With ``factors`` and ``anchor``.
        stretch: 1 / cos of the angle between q and v; below the server's bound.
        budget: Distance from the mean product, in honest ones.

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``, all the same;
        plain columns at the honest mean.

    Raises:
        ValueError: If fewer than two updates are visible, there is no generator, no module leaves
            room for it, a view is malformed, the scene lacks the factors or the anchor, a
            module has one factor alone, or the anchor's A has not full rank.

    Source:
        fedtune: what alignment to a common gauge (LoRA, Hu et al. 2021,
        https://arxiv.org/abs/2106.09685) leaves to an attacker.
    """
    check_view(honest, num_attackers=num_attackers)
    known = adapter("stretch", scene, honest)
    need_rows("stretch", honest)
    need_generator("stretch", generator)
    crafted, placed = mean(honest), 0
    for block in known.blocks:
        found = _deviation(block, known, honest, 1 / stretch, budget, generator)
        if found is not None:
            b, a = block.views(known.anchor)
            near = in_row_space(*found, a, block.scale)
            block.write(crafted, near[0] - b, near[1] - a)
            placed += 1
    if placed == 0:
        raise ValueError(
            "stretch needs a module with honest products further apart than the weakest "
            f"direction of their mean is long: got none of {len(known.blocks)}; raise budget"
        )
    return repeat(crafted, like=honest, times=num_attackers)


def _deviation(
    block: Block,
    known: Adapter,
    honest: Tensor,
    c: float,
    budget: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor] | None:
    """The product (d_out, d_in) and its row space (d_in, r) in one module; None without room."""
    b, a = block.views(known.anchor)
    if a.shape[0] >= a.shape[1]:
        return None  # all of the space is A's: there is no w
    own = torch.linalg.qr(a.T).Q
    w = normal("stretch", (a.shape[1],), generator=generator, like=a)
    w -= own @ (own.T @ w)
    aside = (1 - c * c) ** 0.5 * w / w.norm()
    changes = block.changes(honest.double(), known.anchor)
    middle = changes.mean(dim=0)
    whole = block.product(known.anchor) + middle
    lost = whole - whole @ own @ own.T  # A stays the anchor's: what its moves brought is not sent
    room = (budget * rms_norm(changes - middle)) ** 2 - float(lost.square().sum())
    # B' needs all r directions of A, though of d_out < r outputs the product has d_out alone
    narrow = len(b) < block.rank
    basis = own @ torch.linalg.svd(whole @ own, full_matrices=narrow).Vh.T
    held, steps = whole @ basis, middle @ basis
    pairs = list(zip(held.T, steps.T, strict=True))[: len(b)]
    tried = [_behind(length, step, c * length + lost @ aside, room) for length, step in pairs]
    gains = [float(x.norm() * step.norm()) for x, (_, step) in zip(tried, pairs, strict=True)]
    best = max(range(len(gains)), key=gains.__getitem__)
    if gains[best] <= 0:
        return None
    held[:, best] = tried[best]
    basis[:, best] = c * basis[:, best] + aside
    return held @ basis.T, basis


def _behind(held: Tensor, step: Tensor, shadow: Tensor, room: float) -> Tensor:
    """Find x against the step with |x|² - 2 <x, shadow> + |held|² = room; 0 where there is none.

    The left side is what ``x vᵀ`` in place of ``held qᵀ`` adds to the squared distance, the shadow
    being the mean's product with v.
    """
    x = -step / step.norm().clamp(min=torch.finfo(step.dtype).tiny)
    along = float(x @ shadow)
    under = along**2 + room - float(held.square().sum())
    length = along + math.sqrt(under) if under > 0 else 0.0
    found: Tensor = max(length, 0.0) * x
    return found


ATTACK = Attack(
    name="stretch",
    summary="honest by products, but many times longer in the factors of the server's gauge",
    source="fedtune, on the gauge freedom of LoRA, https://arxiv.org/abs/2106.09685",
    level="update",
    goal="harm",
    knowledge=("fellows", "all"),
    options={
        "stretch": Option(
            kind=float,
            default=2.7,
            low=1.0,
            high=1e6,
            summary="1 / cos of the angle to the anchor's row space; the server has a bound",
        ),
        "budget": Option(
            kind=float,
            default=1.0,
            low=0.0,
            high=1e12,
            summary="distance from the mean product, in honest ones",
        ),
    },
    takes=("generator", "scene"),
    needs=("factors",),
    function=stretch,
)
