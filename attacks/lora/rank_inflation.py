"""Rank inflation: noise in so many directions that the cut to rank r takes honest ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attacks.attack import Attack, Option
from attacks.lora.columns import Adapter, Block, adapter
from attacks.lora.factoring import STRETCH, in_row_space, lean
from attacks.noise import need_generator, normal
from attacks.scene import Scene
from attacks.statistics import mean, repeat
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor


def rank_inflation(
    honest: Tensor,
    *,
    num_attackers: int,
    generator: torch.Generator | None = None,
    scene: Scene | None = None,
    keep: int | None = None,
    energy: float = 1.0,
    max_stretch: float = 2.7,
) -> Tensor:
    """Send a product of full rank whose directions beyond the first few are noise, all as strong.

    Per module the anchor's product plus the honest mean change is cut to its ``keep`` leading
    directions; the other r - keep are filled with random ones, orthogonal to the honest, of one
    singular value tau each. tau is set so that the noise has the energy of an honest change:
    (r - keep) tau² = energy * mean_i |P_i|². All attackers send the same noise, since random ones
    would cancel.

    An exact combination adds products, whose ranks add up, and cuts the sum to r directions by
    their singular values. k attackers of n put (k / n) tau into each of r - keep new directions;
    every honest direction with a singular value below that in the sum is cut off, and the
    noise takes its place in the adapter. Rules that weigh by distance see a client that strays by
    about its own energy. A mean of factors has no cut: there the noise is one more term. In a
    server's gauge the attacker's B is up to ``max_stretch`` times longer, and its A shorter by as
    much. Where d_in < 2r there is no room beside A's row space, and the noise is in it. A module of
    d_out < r outputs has a product of d_out directions at most: there r above is d_out, and where
    ``keep`` is no less, the module stays at the honest mean.

    Args:
        honest: The updates the attackers see, shape (h, d), floating point.
        num_attackers: How many rows to craft.
        generator: Source of randomness.
        scene: With ``factors`` and ``anchor``; ``fewer`` in runs of mixed ranks.
        keep: Directions left honest. By default the lowest rank that a client holds, in a run of
            mixed ranks: what low clients sent is kept, what only high ones hold is overwritten.
            With equal ranks half of each module's directions, min(r, d_out), rounded down.
        energy: Of the noise, relative to an honest change of the module.
        max_stretch: How far A's row space may turn from the anchor's, as 1 / cos of the largest
            angle. The server refuses beyond a bound.

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``, all the same;
        plain columns at the honest mean.

    Raises:
        ValueError: If there is no generator, ``keep`` leaves nothing to fill in any module, a view
            is malformed, the scene lacks the factors or the anchor, a module has one factor alone,
            or the anchor's A has not full rank.

    Source:
        fedtune, on the combination of Bai et al. 2024 (FlexLoRA: SVD of the mean product),
        https://arxiv.org/abs/2402.11505
    """
    check_view(honest, num_attackers=num_attackers)
    known = adapter("rank_inflation", scene, honest)
    assert scene is not None
    need_generator("rank_inflation", generator)
    if keep is None and scene.fewer:
        keep = scene.fewer[0]
    most = [min(block.rank, len(block.views(known.anchor)[0])) for block in known.blocks]
    if keep is not None and keep >= max(most):
        raise ValueError(
            f"rank_inflation needs keep below the highest rank of a product, {max(most)}: got "
            f"{keep}; nothing would be left to fill"
        )
    crafted = mean(honest)
    for block, rank in zip(known.blocks, most, strict=True):
        kept = rank // 2 if keep is None else keep
        if kept < rank:
            fill = rank - kept
            _inflate(crafted, block, known, honest, kept, fill, energy, max_stretch, generator)
    return repeat(crafted, like=honest, times=num_attackers)


def _inflate(
    crafted: Tensor,
    block: Block,
    known: Adapter,
    honest: Tensor,
    keep: int,
    fill: int,
    energy: float,
    max_stretch: float,
    generator: torch.Generator | None,
) -> None:
    """Overwrite one module of the mean: ``keep`` honest directions, ``fill`` of noise."""
    b, a = block.views(known.anchor)
    middle = torch.zeros(len(b), a.shape[1], dtype=torch.float64, device=b.device)
    honest_energy = 0.0
    for row in honest:
        change = block.change(row.double(), known.anchor)
        middle += change / len(honest)
        honest_energy += float(change.square().sum()) / len(honest)
    u, values, vh = torch.linalg.svd(block.product(known.anchor) + middle, full_matrices=False)
    tau = (energy * honest_energy / fill) ** 0.5
    held = u[:, : block.rank] if len(u) >= block.rank + fill else u[:, :keep]
    left = _beside(held, fill, generator)
    kept = lean(vh[:keep].T, a, max_stretch)
    fresh = _turned(kept, a, max_stretch, generator)
    target = (u[:, :keep] * values[:keep]) @ vh[:keep] + tau * left @ fresh[:, :fill].T
    near = in_row_space(target, torch.cat([kept, fresh], dim=1), a, block.scale)
    block.write(crafted, near[0] - b, near[1] - a)


def _turned(
    kept: Tensor, a: Tensor, max_stretch: float, generator: torch.Generator | None
) -> Tensor:
    """Draw the rest of a row space, (d_in, r - keep): as far from A's as the stretch allows."""
    fill = len(a) - kept.shape[1]
    own = torch.linalg.qr(a.T).Q
    inside: Tensor = own @ _beside(own.T @ kept, fill, generator)
    if a.shape[1] < 2 * len(a):
        return inside
    outside = _beside(torch.cat([own, kept], dim=1), fill, generator)
    turned: Tensor = inside / max_stretch + (1 - 1 / max_stretch**2) ** 0.5 * outside
    return turned


def _beside(held: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Draw orthonormal columns orthogonal to those held, (w, count)."""
    basis = torch.linalg.qr(held).Q
    drawn = normal("rank_inflation", (len(held), count), generator=generator, like=held)
    drawn = drawn - basis @ (basis.T @ drawn)
    found: Tensor = torch.linalg.qr(drawn - basis @ (basis.T @ drawn)).Q
    return found


ATTACK = Attack(
    name="rank_inflation",
    summary="noise in every direction beyond the honest rank, so that the cut takes theirs",
    source="fedtune, on FlexLoRA's cut (Bai et al. 2024), https://arxiv.org/abs/2402.11505",
    level="update",
    goal="harm",
    knowledge=("fellows", "all"),
    options={
        "keep": Option(
            kind=int,
            default=None,
            low=0,
            high=1e6,
            summary="directions left honest; None is the lowest rank held, or half the rank",
        ),
        "energy": Option(
            kind=float, default=1.0, low=0.0, high=1e12, summary="of the noise, in honest changes"
        ),
        "max_stretch": STRETCH,
    },
    takes=("generator", "scene"),
    needs=("factors",),
    function=rank_inflation,
)
