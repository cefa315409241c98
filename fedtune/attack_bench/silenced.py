"""How many honest clients a defence has silenced: weight 0, or no reply that counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fedtune.attack_bench.gains import name_of

Line = Mapping[str, Any]


def silenced(lines: Iterable[Line]) -> dict[str, Any] | None:
    """The honest clients at weight 0 over runs of one defence.

    Args:
        lines: Results; those that say nothing of their clients are left out.

    Returns:
        ``clients``: at most so many in one run had weight 0, or no reply that counted, in a round
        at least, ``of`` so many honest ones; ``share``: of all rounds in which honest clients were
        asked, those in which they had none; ``longest``: the client that lost the largest share of
        its rounds in one run, with its ``client``, ``name``, ``rounds``, ``asked``, ``attack`` and
        ``seed``. None where no run tells, as of a rule that gives no weights.
    """
    most, of, lost, asked = 0, 0, 0, 0
    longest: dict[str, Any] | None = None
    for line in lines:
        honest = {int(k): each for k, each in line["clients"].items() if not each["liar"]}
        if any(None in (each["dropped"], each["weight"]) for each in honest.values()):
            continue
        without = {k: each["dropped"] + each["refused"] for k, each in honest.items()}
        count = sum(rounds > 0 for rounds in without.values())
        most, of = max(most, count), max(of, len(honest))
        lost, asked = lost + sum(without.values()), asked + sum(o["asked"] for o in honest.values())
        for client, rounds in without.items():
            share = rounds / honest[client]["asked"]
            if rounds and (longest is None or share > longest["rounds"] / longest["asked"]):
                longest = {
                    "client": client, "name": name_of(line, client), "rounds": rounds,
                    "asked": honest[client]["asked"], "attack": line["attack"],
                    "seed": line["seed"],
                }  # fmt: skip
    if not asked:
        return None
    return {"clients": most, "of": of, "share": lost / asked, "longest": longest}
