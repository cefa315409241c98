"""Suspicion carried from round to round: who keeps losing its share is left out for a while.

Everyone is judged by the rule in every round, the suspended too, as though all had been let in:
only so does an honest client that was suspended wrongly come back, and no attacker by waiting.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

NAME = "suspicion"
LIMIT = 0.5  # of its share, lost on average over the remembered rounds


def suspended(suspicion: Tensor, clients: Sequence[int], *, f: int) -> list[int]:
    """Which of a round's clients are left out, those of most suspicion first.

    Args:
        suspicion: Of every client of the run, shape (num_clients,), from 0 to 1.
        clients: The round's, by number.
        f: The most that may be left out in a round.

    Returns:
        Clients above `LIMIT`, at most f; of equals the lowest number first.
    """
    over = [k for k in clients if float(suspicion[k]) > LIMIT]
    over.sort(key=lambda k: (-float(suspicion[k]), k))
    return over[:f]


def updated(suspicion: Tensor, clients: Sequence[int], weights: Tensor, *, memory: float) -> Tensor:
    """Suspicion after a round: the remembered part of it, and what each lost in this one.

    A client loses the part of an equal share that the rule, letting all in, did not give it: 1
    where it was dropped, 0 where it weighed 1/n or more. Who was not asked keeps its suspicion.

    Args:
        suspicion: Before the round, shape (num_clients,).
        clients: Those with a good reply.
        weights: The rule's, in the order of ``clients``, shape (n,).
        memory: How much stays, in (0, 1).
    """
    after = suspicion.clone()
    share = (weights.double() * len(clients)).clamp(0, 1)
    for client, got in zip(clients, share.tolist(), strict=True):
        after[client] = memory * after[client] + (1 - memory) * (1 - got)
    return after
