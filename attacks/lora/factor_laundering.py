"""Factor laundering: a deviation in B alone, with A kept at the honest mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attacks.attack import Attack, Option
from attacks.lora.columns import ROUNDING, Adapter, adapter, need_rows, rms_norm
from attacks.scene import Scene
from attacks.statistics import mean, repeat
from attacks.updates.line_search import EVALUATIONS, worst_rows
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor


def factor_laundering(
    honest: Tensor,
    *,
    num_attackers: int,
    scene: Scene | None = None,
    strength: float | None = None,
    evaluations: int = 20,
) -> Tensor:
    """Send the honest mean of A, and a B that goes against the honest mean of B.

    ``dA = mean dA``, ``dB = mean dB - strength * R_B * mean dB / |mean dB|``, over all modules at
    once. R_B is the root mean square of the honest clients' distances |dB_i - mean dB|. An honest
    client's factors stray from the mean in A and in B, and a fresh AdamW moves both by similar
    amounts, though while B is small only B's move changes the product. The attacker strays in B
    alone: at the same distance between factors, its product is further off than any honest one, and
    all of it is against the honest step.

    Args:
        honest: The updates the attackers see, shape (h, d) with h >= 2, floating point.
        num_attackers: How many rows to craft.
        scene: With ``factors`` and ``anchor``. Where it has a defence and no strength is given,
            the attackers try strengths on it.
        strength: In units of R_B. By default searched for on ``scene.defence``; without one,
            sqrt(R_A² + R_B²) / R_B: as far from the mean, in factors, as honest clients are.
        evaluations: How often the defence is tried; not looked at when ``strength`` is given.

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``, all the same;
        plain columns at the honest mean.

    Raises:
        ValueError: If fewer than two updates are visible, their B do not differ or their mean does
            not move, a view is malformed, or the scene lacks the factors or the anchor, or a
            module has one factor alone.

    Source:
        fedtune, after the observation that A and B do not average as their product does (Sun et
        al. 2024), https://arxiv.org/abs/2403.12313
    """
    check_view(honest, num_attackers=num_attackers)
    known = adapter("factor_laundering", scene, honest)
    assert scene is not None
    need_rows("factor_laundering", honest)
    mu = mean(honest)
    against, r_a, r_b = _directions(honest, mu, known)

    def crafted(step: float) -> Tensor:
        return mu - step * r_b * against

    if strength is None and scene.defence is not None:
        return worst_rows(
            crafted, scene=scene, like=honest, times=num_attackers, evaluations=evaluations
        )
    step = (r_a**2 + r_b**2) ** 0.5 / r_b if strength is None else strength
    return repeat(crafted(step), like=honest, times=num_attackers)


def _directions(honest: Tensor, mu: Tensor, known: Adapter) -> tuple[Tensor, float, float]:
    """The unit row of mean dB, and the honest spread in A and in B."""
    in_b = known.plain.new_zeros(known.plain.shape)
    for block in known.blocks:
        in_b[block.b] = True
    in_a = ~(in_b | known.plain)
    strays = [row.double() - mu for row in honest]
    r_b = rms_norm([row[in_b] for row in strays])
    r_a = rms_norm([row[in_a] for row in strays])
    along = mu * in_b
    if r_b <= ROUNDING * float(along.norm()) or float(along.norm()) <= ROUNDING * r_b:
        raise ValueError(
            "factor_laundering needs updates whose B differ, and whose mean B moves: got a spread "
            f"of {r_b:.3g} and a mean of length {float(along.norm()):.3g}; "
            "widen what the attackers see"
        )
    return along / along.norm(), r_a, r_b


ATTACK = Attack(
    name="factor_laundering",
    summary=(
        "B against the honest mean, A at it: hidden from distances between factors; tried out on "
        "the server's own rule if the attackers know it"
    ),
    source=(
        "fedtune, after Sun et al. 2024 (A and B do not average), https://arxiv.org/abs/2403.12313"
    ),
    level="update",
    goal="harm",
    knowledge=("fellows", "all"),
    options={
        "strength": Option(
            kind=float,
            default=None,
            low=0.0,
            high=1e12,
            summary=(
                "in honest distances of B; None is searched for on the server's own rule where the "
                "attackers know it, else as far as honest clients are"
            ),
        ),
        "evaluations": EVALUATIONS,
    },
    takes=("scene",),
    needs=("factors",),
    function=factor_laundering,
)
