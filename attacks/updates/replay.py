"""Replay: the first update seen, sent again in every round."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attacks.attack import Attack, Option
from attacks.past import recall
from attacks.scene import Scene
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor


def replay(
    honest: Tensor,
    *,
    num_attackers: int,
    scene: Scene,
    own: Tensor | None = None,
    of: str = "honest",
) -> Tensor:
    """Send the first update ever seen, bit for bit, in every round.

    With "honest" that is the first visible client's, the same from all attackers; with "own" what
    the i-th attacker of a round trained when there first was an i-th. Afterwards no work is done:
    the goal is a share of the aggregate for nothing. A server that compares hashes over rounds
    finds it.

    Args:
        honest: The updates the attackers see, shape (h, d), floating point.
        num_attackers: How many rows to craft.
        scene: Holds the memory, which is written to once for each row that is kept.
        own: What each attacker has trained, shape (num_attackers, d); needed of "own".
        of: "honest" or "own".

    Returns:
        The rows, shape (num_attackers, d), dtype and device of ``honest``.

    Raises:
        ValueError: If a view is malformed, ``of`` is unknown or lacks ``own``, or the memory does
            not fit.

    Source:
        After the free riders of Lin, Du, Liu 2019, https://arxiv.org/abs/1911.12560, who send
        the change of the model again. With a client's update in its place it is defined here.
    """
    check_view(honest, num_attackers=num_attackers, own=own)
    if of not in ("honest", "own"):
        raise ValueError(f"replay.of needs 'honest' or 'own': got {of!r}")
    if of == "own" and own is None:
        raise ValueError("replay of=own needs own: got None; pass own, or set of=honest")
    now = own.detach() if of == "own" and own is not None else honest[:1].detach()
    kept = recall(scene, f"replay.{of}", like=honest)
    kept = now[:0] if kept is None else kept
    if len(kept) < len(now):
        kept = torch.cat([kept, now[len(kept) :]])
        scene.memory[f"replay.{of}"] = kept
    return kept[:num_attackers].clone() if of == "own" else kept.repeat(num_attackers, 1)


ATTACK = Attack(
    name="replay",
    summary="the first update ever seen, again in every round",
    source="after the free riders of Lin et al. 2019, https://arxiv.org/abs/1911.12560",
    level="update",
    goal="shirk",
    knowledge=("own", "fellows", "all"),
    options={
        "of": Option(
            kind=str,
            default="honest",
            choices=("honest", "own"),
            summary="the update to repeat: the first visible client's, or the attacker's own",
        ),
    },
    takes=("own", "scene"),
    function=replay,
)
