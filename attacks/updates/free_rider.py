"""Free rider: an update made without data and without training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attacks.attack import Attack, Option
from attacks.noise import normal
from attacks.past import last_step
from attacks.scene import Scene
from attacks.statistics import rms
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor


def free_rider(
    honest: Tensor,
    *,
    num_attackers: int,
    scene: Scene,
    generator: torch.Generator | None,
    mode: str = "delta",
    spread: float = 0.1,
    scale: float = 1.0,
    gamma: float = 1.0,
    first_std: float = 0.0,
) -> Tensor:
    """Send an update made of what the server broadcasts, and of nothing else.

    Mode "delta": what the last outer step added, with noise of ``spread`` times its RMS
    coordinate, so that free riders are not alike: Lin's delta weights, and the advanced form
    with noise. Mode "noise": Fraboni's disguise, ``scale * sigma * t^-gamma`` times N(0, I),
    where sigma is the RMS coordinate of the first outer step that was not zero and t counts the
    rounds from the one in which it was seen, which is t = 1. Fraboni fits a zero-centred normal to
    that first change, takes gamma = 1, and tries scales 1 and 3.

    Before there is such a step a free rider knows no scale: it sends noise of ``first_std`` per
    coordinate, by default zeros, which is the broadcast model sent back.

    Args:
        honest: Only the shape, dtype and device are used.
        num_attackers: How many rows to craft.
        scene: Its ``last`` is what is copied; its memory keeps sigma and the round of it.
        generator: Source of the noise; required.
        mode: "delta" or "noise".
        spread: Mode "delta": noise relative to the step's RMS coordinate.
        scale: Mode "noise": standard deviation relative to Fraboni's.
        gamma: Mode "noise": how fast it decays.
        first_std: Standard deviation of a coordinate while no step is known, absolute.

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``.

    Raises:
        ValueError: If ``generator`` is missing, ``mode`` is unknown, or a view or the last step is
            malformed.

    Source:
        Lin, Du, Liu 2019, https://arxiv.org/abs/1911.12560;
        Fraboni, Vidal, Lorenzi 2021, https://arxiv.org/abs/2006.11901
    """
    check_view(honest, num_attackers=num_attackers)
    if mode not in ("delta", "noise"):
        raise ValueError(f"free_rider.mode needs 'delta' or 'noise': got {mode!r}")
    shape = (num_attackers, honest.shape[1])
    noise = normal("free_rider", shape, generator=generator, like=honest)
    step = last_step(scene, like=honest)
    if step is not None and not bool(step.any()):
        step = None
    if mode == "noise":
        std = _decayed(scene, step, gamma)
        made = (first_std if std is None else scale * std) * noise
    elif step is None:
        made = first_std * noise
    else:
        made = step + spread * rms(step) * noise
    return made.to(honest.dtype)


def _decayed(scene: Scene, step: Tensor | None, gamma: float) -> float | None:
    """``sigma * t^-gamma``; None while no outer step has moved anything."""
    if "free_rider.sigma" not in scene.memory:
        if step is None:
            return None
        scene.memory["free_rider.sigma"] = rms(step).cpu()
        scene.memory["free_rider.round"] = torch.tensor(scene.round_)
    sigma, since = (scene.memory[f"free_rider.{what}"].item() for what in ("sigma", "round"))
    return float(sigma * (scene.round_ - since + 1) ** -gamma)


ATTACK = Attack(
    name="free_rider",
    summary="no work: the last outer step sent back, or noise that decays like training",
    source="Lin, Du, Liu 2019, https://arxiv.org/abs/1911.12560; "
    "Fraboni, Vidal, Lorenzi 2021, https://arxiv.org/abs/2006.11901",
    level="update",
    goal="shirk",
    knowledge=("own",),
    options={
        "mode": Option(
            kind=str,
            default="delta",
            choices=("delta", "noise"),
            summary="delta: the last outer step; noise: of its size, decaying",
        ),
        "spread": Option(
            kind=float, default=0.1, low=0.0, high=1e12, summary="delta: noise relative to the step"
        ),
        "scale": Option(
            kind=float, default=1.0, low=0.0, high=1e12, summary="noise: relative to the paper's"
        ),
        "gamma": Option(
            kind=float, default=1.0, low=0.0, high=10.0, summary="noise: exponent of the decay"
        ),
        "first_std": Option(
            kind=float,
            default=0.0,
            low=0.0,
            high=1e12,
            summary="absolute deviation while no step is known; 0 sends zeros",
        ),
    },
    takes=("generator", "scene"),
    function=free_rider,
)
