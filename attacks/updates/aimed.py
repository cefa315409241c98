"""Crafted rows that follow the honest mean and push along one direction: shared by attacks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from attacks.attack import Option
from attacks.noise import need_generator, normal
from attacks.past import recall
from attacks.scene import Scene, Search, Span
from attacks.search import Family, goal_of, worst
from attacks.statistics import mean

if TYPE_CHECKING:
    from torch import Tensor

TOWARDS = Option(
    kind=str,
    default="own",
    choices=("own", "against", "odd", "random"),
    summary="direction of the push: own (learnt from the attackers' own rows), against (minus the "
    "mean), odd (against what makes the most unusual honest client different), or random",
)
MEAN = Option(
    kind=float, default=1.0, low=-1e6, high=1e6, summary="multiple of the honest mean that is sent"
)
LENGTH = Option(
    kind=float,
    default=1.0,
    low=0.0,
    high=1e9,
    summary="length along the direction, in honest lengths, if nothing is searched",
)
_MEANS, _LENGTHS = (0.0, 0.5, 1.0, 2.0), (0.25, 0.5, 1.0, 2.0, 4.0)


def direction(
    name: str,
    honest: Tensor,
    own: Tensor | None,
    *,
    towards: str,
    scene: Scene,
    generator: torch.Generator | None,
) -> Tensor:
    """Return the direction of the push, shape (d,), float64, of the honest median length.

    Args:
        name: The attack, for messages and its memory.
        honest: The visible updates, shape (h, d).
        own: What each attacker has trained, shape (num_attackers, d).
        towards: "own": the mean of ``own`` less the visible mean. "against": minus that mean.
            "odd": from the honest row of the least cosine with the mean of the others to that
            mean. "random": drawn once, and remembered.
        scene: Its memory keeps what is drawn.
        generator: Draws it.

    Returns:
        The direction; zeros where it points nowhere.

    Raises:
        ValueError: If ``towards`` is unknown, or its inputs are missing.
    """
    if towards == "own":
        if own is None:
            raise ValueError(f"{name} towards=own needs own: got None; pass own, or set towards")
        return scaled(mean(own) - mean(honest), like=honest)
    if towards == "against":
        return scaled(-mean(honest), like=honest)
    if towards == "odd":
        return scaled(-apart(honest), like=honest)
    if towards != "random":
        raise ValueError(f"{name}.towards needs own, against, odd or random: got {towards!r}")
    drawn = normal(name, (honest.shape[1],), generator=generator, like=honest)
    kept = recall(scene, f"{name}.direction", like=honest.double())
    if kept is None:
        kept = scene.memory[f"{name}.direction"] = drawn
    return scaled(kept, like=honest)


def apart(honest: Tensor) -> Tensor:
    """What sets the honest row apart that is least like the others, shape (d,), float64.

    Raises:
        ValueError: If there is but one row, and so no other.
    """
    rows = honest.double()
    if len(rows) < 2:
        raise ValueError(f"towards=odd needs two honest updates: got {len(rows)}")
    others = (rows.sum(dim=0) - rows) / (len(rows) - 1)
    cosines = torch.nn.functional.cosine_similarity(rows, others, dim=1)
    odd = int(cosines.argmin())
    return rows[odd] - others[odd]


def scaled(row: Tensor, *, like: Tensor) -> Tensor:
    """The row at the median length of ``like``; zeros stay."""
    length = row.norm()
    if length == 0:
        return row
    at_length: Tensor = row / length * torch.quantile(like.double().norm(dim=1), 0.5)
    return at_length


def smoothed(name: str, row: Tensor, *, scene: Scene, memory: float) -> Tensor:
    """The mean over rounds, exponential and without bias; a round tried again counts once.

    Args:
        name: The attack, for its memory.
        row: This round's, shape (d,), float64.
        scene: Holds the memory.
        memory: How much of the past stays, in [0, 1).
    """
    keys = [f"{name}.{what}" for what in ("before", "now", "counts")]
    before, now = (recall(scene, key, like=row[None]) for key in keys[:2])
    counts = scene.memory.get(keys[2], torch.zeros(2, dtype=torch.int64))
    last, count = (int(each) for each in counts)
    if last != scene.round_:
        before, count = now, count + 1
    if before is None:
        before = torch.zeros_like(row)
    now = memory * before + (1 - memory) * row
    scene.memory[keys[0]], scene.memory[keys[1]] = before.clone(), now.clone()
    scene.memory[keys[2]] = torch.tensor([scene.round_, count])
    return now / (1 - memory**count)


def behind_the_mean(num_honest: int, share: float, length: float) -> Tensor:
    """Coefficients of share * mean + length * direction, shape (num_honest + 1,), float64."""
    row = torch.full((num_honest + 1,), share / num_honest, dtype=torch.float64)
    row[-1] = length
    return row


def made(coefficients: Tensor, honest: Tensor, aim: Tensor) -> Tensor:
    """The rows that coefficients over the honest updates and the direction stand for."""
    points = torch.cat([honest.double(), aim[None]])
    return (coefficients @ points).to(honest.dtype)


def capture_family(num_honest: int, num_attackers: int) -> Family:
    """All attackers alike: (share of the mean, length along the direction)."""
    starts = [(share, length) for length in _LENGTHS for share in _MEANS]
    return Family(
        rows=lambda p: behind_the_mean(num_honest, float(p[0]), float(p[1])).repeat(
            num_attackers, 1
        ),
        starts=torch.tensor(starts, dtype=torch.float64),
        lengthen=lambda p, times: p * torch.tensor([1.0, times], dtype=torch.float64),
    )


def span_of(name: str, scene: Scene, aim: Tensor) -> Span:
    """The server's rule on combinations of the honest updates and the direction.

    Raises:
        ValueError: If the attackers do not know the rule.
    """
    if scene.span is None:
        raise ValueError(
            f"{name} needs the rule to search against: got none; leave search out, or let the "
            "attackers know all"
        )
    return scene.span(aim[None])


def searched_rows(
    name: str,
    family: Family,
    honest: Tensor,
    aim: Tensor,
    *,
    span: Span,
    scene: Scene,
    generator: torch.Generator | None,
    objective: str = "push",
    enough: float = math.inf,
) -> Tensor:
    """The family's worst rows by the server's rule, within the scene's budget.

    Raises:
        ValueError: If there is nothing to draw from.
    """
    coefficients = worst(
        family,
        span,
        goal_of(objective, span, len(honest), enough=enough),
        search=scene.search or Search(),
        generator=need_generator(name, generator),
    )
    return made(coefficients, honest, aim)
