"""How many honest clients a defence has silenced: weight 0, or no reply that counted."""

from __future__ import annotations

from collections.abc import Iterable

from fedtune.records.bench_figures import Longest, Silenced
from fedtune.records.bench_result import Line


def silenced(lines: Iterable[Line]) -> Silenced | None:
    """The honest clients that had no part, over runs of one defence.

    Args:
        lines: Results; those that say nothing of their clients are left out.

    Returns:
        None where no run tells, as of a rule that gives no weights.
    """
    most, of, lost, asked = 0, 0, 0, 0
    longest: Longest | None = None
    for line in lines:
        honest = {client: one for client, one in line.clients.items() if not one.attacker}
        if not all(one.gives_weights for one in honest.values()):
            continue
        without = {client: (one.dropped or 0) + one.refused for client, one in honest.items()}
        count = sum(rounds > 0 for rounds in without.values())
        most, of = max(most, count), max(of, len(honest))
        lost, asked = lost + sum(without.values()), asked + sum(o.asked for o in honest.values())
        for client, rounds in without.items():
            share = rounds / honest[client].asked
            if rounds and (longest is None or share > longest.rounds / longest.asked):
                longest = Longest(
                    client=client, name=line.name_of(client), rounds=rounds,
                    asked=honest[client].asked, attack=line.attack, seed=line.seed,
                )  # fmt: skip
    if not asked:
        return None
    return Silenced(clients=most, of=of, share=lost / asked, longest=longest)
