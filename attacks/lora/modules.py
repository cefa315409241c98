"""Modules: the honest mean everywhere except in one module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attacks.attack import Attack, Option
from attacks.lora.columns import ROUNDING, need_rows, rms_norm
from attacks.scene import Scene
from attacks.statistics import mean, repeat
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor


def modules(
    honest: Tensor,
    *,
    num_attackers: int,
    scene: Scene | None = None,
    module: int | None = None,
    scale: float | None = None,
) -> Tensor:
    """Send the honest mean, and in one module ``-scale`` times it.

    A distance over the whole adapter is the sum over its modules. Honest clients stray a little in
    every one; the attacker spends it all in one. By default it is as far from the mean as honest
    clients are (the root mean square of |x_i - mu| over all columns), so that
    ``scale = R / |mu_m| - 1``. That may be negative where one module is most of the mean; the
    attacker then only shortens it. Rules that look at each coordinate or each module by itself
    see it at once; those on whole-row distances do not.

    Turned are the module's columns, A's and B's alike. Its product does not turn exactly: with k
    the scale it changes by s (-k dB A - k B dA + k² dB dA). In a round of one factor it turns
    exactly.

    Args:
        honest: The updates the attackers see, shape (h, d), floating point; h >= 2 without
            ``scale``.
        num_attackers: How many rows to craft.
        scene: With ``factors``.
        module: Which one, counted from 0. By default the one in which the mean is longest.
        scale: By default as above.

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``, all the same;
        plain columns at the honest mean.

    Raises:
        ValueError: If a view is malformed, there are no factors, no such module, no spread to hide
            in, or the mean does not move in that module.

    Source:
        The layer-wise form of model poisoning: Zhuang et al. 2024 (backdoor-critical layers),
        https://arxiv.org/abs/2308.04466
    """
    check_view(honest, num_attackers=num_attackers)
    if scene is None or scene.factors is None:
        raise ValueError("modules needs scene.factors: got None; say which columns are A and B")
    mu = mean(honest)
    masks = _columns(scene, mu)
    lengths = [float(mu[mask].norm()) for mask in masks]
    if module is None:
        module = lengths.index(max(lengths))
    if not 0 <= module < len(masks):
        raise ValueError(f"modules.module needs one of 0 to {len(masks) - 1}: got {module}")
    if lengths[module] == 0:
        raise ValueError(
            f"modules needs a mean that moves: got 0 in module {module}; name another module"
        )
    if scale is None:
        need_rows("modules", honest)
        spread = rms_norm([row.double() - mu for row in honest])
        if spread <= ROUNDING * float(mu.norm()):
            raise ValueError("modules needs updates that differ: got equal ones; set scale")
        scale = spread / lengths[module] - 1.0
    return repeat(torch.where(masks[module], -scale * mu, mu), like=honest, times=num_attackers)


def _columns(scene: Scene, mu: Tensor) -> list[Tensor]:
    """The columns of each module, as masks of shape (d,)."""
    assert scene.factors is not None
    masks = []
    for one in scene.factors.modules:
        mask = torch.zeros(mu.shape, dtype=torch.bool, device=mu.device)
        for columns in (one.a, one.b):
            if columns is not None:
                mask[slice(*columns)] = True
        masks.append(mask)
    if not masks:
        raise ValueError("modules needs LoRA modules: got none; name an attack on plain updates")
    return masks


ATTACK = Attack(
    name="modules",
    summary="the honest mean, turned around in one module",
    source="Zhuang et al. 2024 (backdoor-critical layers), https://arxiv.org/abs/2308.04466",
    level="update",
    goal="harm",
    knowledge=("fellows", "all"),
    options={
        "module": Option(
            kind=int,
            default=None,
            low=0,
            high=1e6,
            summary="which one, from 0; None is the one in which the mean is longest",
        ),
        "scale": Option(
            kind=float,
            default=None,
            low=-1e12,
            high=1e12,
            summary="relative to the mean; None is as far off as honest clients are",
        ),
    },
    takes=("scene",),
    needs=("factors",),
    function=modules,
)
