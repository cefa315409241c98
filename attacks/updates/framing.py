"""Framing: rows against chosen honest clients, so that the rule takes those for the attackers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attacks.attack import Attack, Option
from attacks.scene import Scene
from attacks.search import Family
from attacks.updates.aimed import (
    LENGTH,
    MEAN,
    TOWARDS,
    behind_the_mean,
    direction,
    made,
    searched_rows,
    span_of,
)
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor

FRAMED = Option(
    kind=int,
    default=None,
    low=0,
    high=10_000,
    summary="honest clients to be framed, those of least agreement; default: as many as attackers",
)
_BITES, _LENGTHS = (0.3, 1.0, 3.0), (0.4, 0.6, 0.8, 1.2, 2.0)


def framing(
    honest: Tensor,
    *,
    num_attackers: int,
    scene: Scene,
    own: Tensor | None = None,
    generator: torch.Generator | None = None,
    towards: str = "own",
    framed: int | None = None,
    bite: float = 1.0,
    mean: float = 1.0,
    length: float = 1.0,
) -> Tensor:
    """Send identical rows: the mean of the honest less ``framed`` of them, plus T.

    A rule that judges a client by the median of its cosines takes the attackers' cosines into that
    median. In late rounds honest clients hardly agree, and f cosines below zero push the median of
    some of them below zero too: those are left out as attackers, and the attackers stay, since
    they agree with each other and with the rest. Few rows are then left for the same f.

    The row is ``mean * (mean of the others - bite * sum of the framed / others) + length * T``.
    Framed are those whose median would be lowest with all attackers against them. With a search,
    any combination of the honest updates and T may be sent, by all attackers alike, beginning with
    this one for several bites, lengths and counts of framed.

    Args:
        honest: The updates the attackers see, shape (h, d), floating point.
        num_attackers: How many rows to craft.
        scene: With ``search`` and ``span`` the search is made.
        own: What each attacker has trained, poisoned or not; needed of towards="own".
        generator: Draws the direction of "random", and the search.
        towards: "own", "against", "odd" or "random".
        framed: How many honest clients; None: as many as there are attackers.
        bite: How much of each framed one is taken away, in the others' shares.
        mean: How much of the visible mean.
        length: How much of the direction, in honest lengths.

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``, all alike.

    Raises:
        ValueError: If more are to be framed than are seen, a view is malformed, or what a
            direction or a search needs is missing.

    Source:
        fedtune, against the median of cosines of ``aggregators.agreement``.
    """
    check_view(honest, num_attackers=num_attackers, own=own)
    count = min(num_attackers, len(honest) - 1) if framed is None else framed
    if count > len(honest):
        raise ValueError(f"framing needs framed <= {len(honest)}, the updates seen: got {count}")
    aim = direction("framing", honest, own, towards=towards, scene=scene, generator=generator)
    h = len(honest)
    if scene.search is None:
        rows = honest.double()
        victims = easiest(rows @ rows.T, num_attackers)
        row = against(victims[:count], h, mean, bite, length)
        return made(row.repeat(num_attackers, 1), honest, aim)
    span = span_of("framing", scene, aim)
    victims = easiest(span.gram[:h, :h], num_attackers)
    family = framing_family(victims, count, num_attackers)
    return searched_rows(
        "framing", family, honest, aim, span=span, scene=scene, generator=generator
    )


def easiest(gram: Tensor, num_attackers: int) -> list[int]:
    """Order the honest updates by their median cosine if all attackers were against them.

    Args:
        gram: Inner products of the honest updates, shape (h, h), in any geometry.
        num_attackers: How many are against.
    """
    h, lengths = len(gram), gram.diagonal().clamp(min=torch.finfo(torch.float64).tiny).sqrt()
    units = gram / lengths[:, None] / lengths[None, :]
    cosines = units[~torch.eye(h, dtype=torch.bool)].reshape(h, h - 1)
    attackers = torch.full((h, num_attackers), -1.0, dtype=torch.float64, device=gram.device)
    medians = torch.quantile(torch.cat([cosines, attackers], dim=1), 0.5, dim=1)
    order: list[int] = medians.argsort(stable=True).tolist()
    return order


def against(
    victims: list[int], num_honest: int, share: float, bite: float, length: float
) -> Tensor:
    """Coefficients of a row along the mean of the other honest updates and against the victims."""
    row = behind_the_mean(num_honest, share, length)
    row[:-1] *= num_honest / max(num_honest - len(victims), 1)
    row[victims] *= -bite
    return row


def framing_family(victims: list[int], most: int, num_attackers: int) -> Family:
    """Rows that are alike for all attackers; the search starts against the first few victims.

    Args:
        victims: All honest updates, the easiest first.
        most: How many may be framed to begin with.
        num_attackers: How many rows there are.
    """
    h = len(victims)
    starts = [
        against(victims[:count], h, 1.0, bite, length)
        for length in _LENGTHS
        for count in range(most, -1, -1)
        for bite in (_BITES if count else (1.0,))
    ]
    last = torch.zeros(h + 1, dtype=torch.float64)
    last[-1] = 1.0
    return Family(
        rows=lambda p: p.repeat(num_attackers, 1),
        starts=torch.stack(starts),
        draw=lambda generator: drawn_against(victims, most, generator),
        lengthen=lambda p, times: p + (times - 1) * last * p,
    )


def drawn_against(victims: list[int], most: int, generator: torch.Generator) -> Tensor:
    """Coefficients against some victims, easy ones more often, and much or little for each other.

    Who sides with all others stands out for agreeing: the row that frames sides with just enough.
    """
    h = len(victims)
    uniform = torch.rand(h + 3, generator=generator, dtype=torch.float64)
    row = torch.where(uniform[:h] < 0.5, 0.03, 0.3)
    count = int(uniform[h] * (most + 1))
    if count:
        odds = 0.6 ** torch.arange(h, dtype=torch.float64)
        chosen = torch.multinomial(odds, count, generator=generator).tolist()
        bite = 0.03 * 30 ** float(uniform[h + 1])
        row[[victims[k] for k in chosen]] = -bite
    return torch.cat([row, 0.3 + uniform[h + 2 :]])


ATTACK = Attack(
    name="framing",
    summary="against chosen honest clients, so that the rule leaves these out in its own stead",
    source="fedtune, against filters by cosines; their kin: Xu et al. 2022, "
    "https://arxiv.org/abs/2109.05872",
    level="update",
    goal="harm",
    knowledge=("all",),
    options={
        "towards": TOWARDS,
        "framed": FRAMED,
        "bite": Option(
            kind=float,
            default=1.0,
            low=0.0,
            high=1e6,
            summary="how much of each framed client is taken away, in the others' shares",
        ),
        "mean": MEAN,
        "length": LENGTH,
    },
    takes=("own", "generator", "scene"),
    searches=True,
    function=framing,
)
