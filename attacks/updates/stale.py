"""Stale: an honest update of an earlier round."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attacks.attack import Attack, Option
from attacks.past import recall
from attacks.scene import Scene
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor

_PREFIX = "stale."


def stale(
    honest: Tensor, *, num_attackers: int, scene: Scene, own: Tensor | None, delay: int = 5
) -> Tensor:
    """Send the update that the attacker honestly trained ``delay`` rounds ago.

    While it has nothing so old it sends the earliest that it has, in its first round that of the
    round itself. An attacker that was not sampled in the wanted round sends its last one before
    it. Each row was an honest update once, so a rule without history sees no harm in it; near the
    optimum it pushes on where the others have arrived.

    The memory holds at most delay + 1 updates, a row each, under the round they are of: a round
    tried again overwrites its own.

    Args:
        honest: The updates the attackers see, shape (h, d), floating point; only the shape counts.
        num_attackers: How many rows to craft, the same in every round.
        scene: Tells the round and holds the memory, which is written to.
        own: What each attacker has trained in this round, shape (num_attackers, d); required.
        delay: Age of what is sent, in rounds.

    Returns:
        The rows, shape (num_attackers, d), dtype and device of ``honest``.

    Raises:
        ValueError: If ``own`` is missing, a view is malformed, or the memory does not fit.

    Source:
        Staleness as a harm: Xie, Koyejo, Gupta 2019 (Asynchronous federated optimization),
        https://arxiv.org/abs/1903.03934. As an attack it is defined here.
    """
    check_view(honest, num_attackers=num_attackers, own=own)
    if own is None:
        raise ValueError("stale needs what each attacker has trained: got own=None; pass own")
    scene.memory[f"{_PREFIX}{scene.round_}"] = own.detach().clone()
    past = sorted(int(key.removeprefix(_PREFIX)) for key in scene.memory if key.startswith(_PREFIX))
    wanted = scene.round_ - delay
    sent = max((round_ for round_ in past if round_ <= wanted), default=past[0])
    rows = recall(scene, f"{_PREFIX}{sent}", like=honest)
    if rows is None or rows.shape != own.shape:
        raise ValueError(
            f"stale needs the same attackers in every round: got {num_attackers} now and memory of "
            f"round {sent} for another count; give each attacker a separate memory"
        )
    for round_ in past:
        if round_ < sent:
            del scene.memory[f"{_PREFIX}{round_}"]
    return rows.clone()


ATTACK = Attack(
    name="stale",
    summary="the attacker's own honest update of some rounds ago",
    source="after staleness in Xie, Koyejo, Gupta 2019, https://arxiv.org/abs/1903.03934",
    level="update",
    goal="harm",
    knowledge=("own",),
    options={
        "delay": Option(kind=int, default=5, low=1, high=1000, summary="age in rounds"),
    },
    takes=("own", "scene"),
    function=stale,
)
