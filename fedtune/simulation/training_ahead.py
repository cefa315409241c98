"""Attackers who mislead their training do it from where the server is about to stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import attacks
from fedtune.adapters.ranks import cut, widen
from fedtune.recipe import Attack
from fedtune.round.broadcast import Broadcast


@dataclass(frozen=True, eq=False)
class Tools:
    """What attackers can do with the model, on their own rows.

    Attributes:
        train: Local steps of a client, poison and all, from an anchor of its layout, in a round;
            the delta of the round's part.
        loss_of: Loss of a whole adapter at the full rank on some rows of these clients.
    """

    train: Callable[[Tensor, int, int], Tensor]
    loss_of: Callable[[Sequence[int], Tensor], float]


def trained_ahead(
    attack: Attack,
    honest: Mapping[int, Tensor],
    attackers: Sequence[int],
    tools: Tools,
    sent: Broadcast,
    round_: int,
) -> list[Tensor]:
    """What each attacker would send: the honest mean, and what it has learnt from there.

    They train in bursts of a round's local steps, each from the mean of what all have learnt in
    the one before, cut back to ``reach`` honest lengths: so that what they learn is of use at the
    length at which the rule will let it through, and is as little noise as many rows allow.

    Args:
        attack: With a poison of level "training".
        honest: The honest updates, by client, at the full rank.
        attackers: Who they are.
        tools: The model.
        sent: What everyone started from.
        round_: Counted from 1.
    """
    assert attack.training_attack is not None
    name, given = attack.training_attack
    options = attacks.find(name).check_options(given)
    bursts, reach = options["bursts"], options["reach"]
    assert isinstance(bursts, int)
    assert isinstance(reach, float)
    rows = torch.stack(list(honest.values())).double()
    step, length = rows.mean(dim=0), torch.quantile(rows.norm(dim=1), 0.5)
    whole, learnt = sent.whole.part.layout, torch.zeros_like(step)
    for _ in range(bursts):
        if learnt.norm() > reach * length:
            learnt = learnt * (reach * length / learnt.norm())
        there, deltas = (step + learnt).to(torch.float32), []
        for client in attackers:
            received = sent.to(client)
            layout = received.part.layout
            moved = received.start + cut(there, whole, layout)
            delta = tools.train(received.part.put(moved, received.anchor), client, round_)
            deltas.append(widen(delta, layout, whole).double())
        before, learnt = learnt, learnt + torch.stack(deltas).mean(dim=0)
    return [(step + before + delta).to(torch.float32) for delta in deltas]
