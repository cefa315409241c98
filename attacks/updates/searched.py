"""Searched: the worst rows in the span of the honest updates and a direction, by search."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attacks.attack import Attack
from attacks.scene import Scene
from attacks.search import OBJECTIVE, Family
from attacks.updates.aimed import TOWARDS, behind_the_mean, direction, searched_rows, span_of
from attacks.updates.framing import drawn_against, easiest, framing_family
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor

_SPREAD = 0.3
_ALIKE = 0.7
_AGAINST = (0.1, 0.3, 0.6, 1.0, 2.0)


def searched(
    honest: Tensor,
    *,
    num_attackers: int,
    scene: Scene,
    own: Tensor | None = None,
    generator: torch.Generator | None = None,
    towards: str = "own",
    objective: str = "push",
) -> Tensor:
    """Send the rows that a search finds worst for the server's rule, one for each attacker.

    It needs no idea of the rule, only the rule: an evolutionary search over the coefficients of
    each attacker's row over the honest updates and one direction. It begins with the ideas of the
    other attacks: a tight cluster (capture), framed clients, minus the mean (IPM), a mean with a
    spread of its own, and honest clients copied with a push. Of three attackers and seven honest
    updates there are 24 coefficients: more evaluations find more.

    Args:
        honest: The updates the attackers see, shape (h, d), floating point.
        num_attackers: How many rows to craft.
        scene: With ``span``; its ``search`` is 300 evaluations and 3 restarts unless said.
        own: What each attacker has trained, poisoned or not; needed of towards="own".
        generator: Draws the direction of "random", and the search; required.
        towards: "own", "against", "odd" or "random".
        objective: "push" along the direction, "progress" lost along the honest mean, or
            "displacement".

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``.

    Raises:
        ValueError: If the rule is not known, a view is malformed, or what the direction needs is
            missing.

    Source:
        The threat model of Shejwalkar, Houmansadr 2021 (AGR-tailored), of more than one parameter;
        (1+1)-ES: Rechenberg 1973.
    """
    check_view(honest, num_attackers=num_attackers, own=own)
    aim = direction("searched", honest, own, towards=towards, scene=scene, generator=generator)
    span, h = span_of("searched", scene, aim), len(honest)
    family = free_family(easiest(span.gram[:h, :h], num_attackers), num_attackers, by=objective)
    return searched_rows(
        "searched", family, honest, aim, span=span, scene=scene, generator=generator,
        objective=objective,
    )  # fmt: skip


def free_family(victims: list[int], num_attackers: int, *, by: str) -> Family:
    """Rows of independent combinations, one for each attacker."""
    h = len(victims)
    most = min(num_attackers, h - 1)
    alike = framing_family(victims, most, num_attackers)
    alone = [behind_the_mean(h, -share, 0.0).repeat(num_attackers, 1) for share in _AGAINST]
    for length in (0.5, 1.0):
        copied = torch.zeros(num_attackers, h + 1, dtype=torch.float64)
        copied[range(num_attackers), [victims[k % h] for k in range(num_attackers)]] = 1.0
        copied[:, -1] = length
        around = behind_the_mean(h, 1.0, length) + _SPREAD * copied
        alone += [copied, around]
    alone += [start.repeat(num_attackers, 1) for start in alike.starts]
    width = h + 1
    last = torch.zeros(num_attackers, width, dtype=torch.float64)
    last[:, -1] = 1.0
    scaled = last.flatten() if by == "push" else torch.ones(num_attackers * width).double()

    def draw(generator: torch.Generator) -> Tensor:
        if torch.rand((), generator=generator) < _ALIKE:
            return drawn_against(victims, most, generator).repeat(num_attackers)
        return torch.cat([drawn_against(victims, most, generator) for _ in range(num_attackers)])

    return Family(
        rows=lambda p: p.reshape(num_attackers, width),
        starts=torch.stack(alone).flatten(1),
        draw=draw,
        lengthen=lambda p, times: p + (times - 1) * scaled * p,
    )


ATTACK = Attack(
    name="searched",
    summary="the worst rows that an evolutionary search finds against the server's own rule",
    source="AGR-tailored, Shejwalkar, Houmansadr 2021, https://www.ndss-symposium.org/ndss-paper/"
    "manipulating-the-byzantine-optimizing-model-poisoning-attacks-and-defenses-for-federated-"
    "learning/, with a row for each attacker",
    level="update",
    goal="harm",
    knowledge=("all",),
    options={"towards": TOWARDS, "objective": OBJECTIVE},
    takes=("own", "generator", "scene"),
    needs=("span",),
    searches=True,
    function=searched,
)
