"""Mimic: copies of one honest client, which make it count many times."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attacks.attack import Attack, Option
from attacks.scene import Scene
from attacks.statistics import mean
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor


def mimic(
    honest: Tensor, *, num_attackers: int, scene: Scene | None = None, warmup_rounds: int = 5
) -> Tensor:
    """Send the update of one honest client, the farthest out where clients differ most.

    No rule can tell the copies from an honest update. z is the running top direction of the
    scatter of honest updates about their running mean; i* is the row with the greatest
    ``<x_i, z>``. Until ``warmup_rounds`` rounds have been seen, z and i* follow the updates; then
    i* stays, and the same client is over-represented in every round. Hurts Krum and the median
    among non-IID clients, and nothing where clients are alike.

    A round tried again teaches nothing new: z and i* stay as its first try left them.

    Readings. The first round's z is the exact top direction, where the authors take one power step
    from a random start; from then on this is their Oja update with its step at unit length, so that
    it works at any size of updates: ``z <- unit(t z + unit(S z))`` after t rounds. An
    eigenvector has no sign: the first z points to the row that stands out most. A row is known by
    its place, which is the client only if all clients take part; in a round with another number
    of rows than when i* was settled, the row with the greatest ``<x_i, z>`` is copied instead.
    Updates that are all equal leave z at zero, and the first row is copied.

    Args:
        honest: The updates the attackers see, shape (h, d), with the clients in the same order
            every round.
        num_attackers: How many rows to craft.
        scene: Tells the round; its memory holds the mean, z, the rounds seen, the last of them and
            i* from round to round, as ``mimic.<what>``. By default there is none, and each call is
            a first round.
        warmup_rounds: Rounds before i* stays.

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``.

    Raises:
        ValueError: If a view is malformed, or the memory is of updates of another length.

    Source:
        Karimireddy, He, Jaggi 2022, https://arxiv.org/abs/2006.09365
    """
    check_view(honest, num_attackers=num_attackers)
    scene = scene or Scene()
    memory = scene.memory
    _check_memory(honest, memory)
    warm = "mimic.rounds" in memory and int(memory["mimic.rounds"]) >= warmup_rounds
    again = "mimic.last" in memory and int(memory["mimic.last"]) == scene.round_
    if not (warm or again):
        _follow(honest, memory)
        memory["mimic.last"] = torch.tensor(scene.round_)
    row, count = memory["mimic.row"].tolist()
    if count != len(honest):
        row = _farthest(honest, memory["mimic.z"].to(honest.device))
    return honest[row].repeat(num_attackers, 1)


def _check_memory(honest: Tensor, memory: dict[str, Tensor]) -> None:
    if "mimic.z" in memory and len(memory["mimic.z"]) != honest.shape[1]:
        raise ValueError(
            f"mimic needs updates as long as those it remembers, {len(memory['mimic.z'])}: "
            f"got {honest.shape[1]}; begin with an empty memory"
        )


def _follow(honest: Tensor, memory: dict[str, Tensor]) -> None:
    """Turn z towards this round's scatter and settle on the row that is farthest along it."""
    mu, seen = mean(honest), 0
    if "mimic.rounds" in memory:
        seen = int(memory["mimic.rounds"])
        mu = (seen * memory["mimic.mean"].to(honest.device) + mu) / (seen + 1)
    centred = honest.double() - mu
    if seen and bool(memory["mimic.z"].any()):
        z = memory["mimic.z"].to(honest.device)
        z = _unit(seen * z + _unit(centred.T @ (centred @ z)))
    else:
        z = _top_direction(centred)
    memory["mimic.mean"], memory["mimic.z"] = mu, z
    memory["mimic.rounds"] = torch.tensor(seen + 1)
    memory["mimic.row"] = torch.tensor([_farthest(honest, z), len(honest)])


def _farthest(honest: Tensor, z: Tensor) -> int:
    return int((honest.double() @ z).argmax())


def _top_direction(centred: Tensor) -> Tensor:
    """Unit eigenvector of the greatest eigenvalue of ``centred.T @ centred``, or zero.

    By way of the (h, h) matrix, because d is large.
    """
    shares = torch.linalg.eigh(centred @ centred.T).eigenvectors[:, -1]
    z = _unit(shares @ centred)
    along = centred @ z
    return z * along[along.abs().argmax()].sign()


def _unit(row: Tensor) -> Tensor:
    length = row.norm()
    return row / length if length > 0 else row


ATTACK = Attack(
    name="mimic",
    summary="copies of one honest update, the farthest out where clients differ most",
    source="Karimireddy, He, Jaggi 2022, https://arxiv.org/abs/2006.09365",
    level="update",
    goal="harm",
    knowledge=("fellows", "all"),
    options={
        "warmup_rounds": Option(
            kind=int,
            default=5,
            low=1,
            high=10_000,
            summary="rounds after which the copied client stays the same",
        ),
    },
    takes=("scene",),
    function=mimic,
)
