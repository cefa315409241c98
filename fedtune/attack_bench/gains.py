"""Retained gain at every round, and each honest client's own share of its oracle's gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from fedtune.records.bench_figures import Least
from fedtune.records.bench_result import Outcome

Point = tuple[int, float | None]

# Of the oracle's gain at the end, or of the median client's: a share of less is a share of noise.
SMALL = 0.1


def gain_curve(line: Outcome, oracle: Outcome | None) -> list[Point]:
    """(base - loss_t) / (base - oracle_t) at each round t from 1, oracle of the same seed.

    Rounds in which the oracle has made less than `SMALL` of its gain at the end are left out.

    Args:
        line: A run that is done.
        oracle: Its oracle.

    Returns:
        Round and retained gain; None where the loss is no finite number. Empty where the oracle has
        no gain, or either has no curve.
    """
    if line.status != "done" or line.base is None or oracle is None:
        return []
    if oracle.base is None or oracle.loss is None or (whole := oracle.base - oracle.loss) <= 0:
        return []
    ideal = {round_: loss for round_, loss in oracle.curve if round_ and loss is not None}
    curve: list[Point] = []
    for round_, loss in line.curve:
        if round_ not in ideal or (gain := oracle.base - ideal[round_]) < SMALL * whole:
            continue
        curve.append((round_, None if loss is None else (line.base - loss) / gain))
    return curve


def least_of(curves: Mapping[int, Sequence[Point]]) -> Least | None:
    """The least retained gain over all rounds of all seeds; None without any point."""
    points = [
        Least(kept=kept, round=at, seed=seed)
        for seed, curve in curves.items()
        for at, kept in curve
    ]
    return min(points, key=lambda point: point.rank, default=None)


def client_shares(line: Outcome, oracle: Outcome | None) -> dict[int, float | None]:
    """Of each honest client, the share that it has of its oracle's gain on its own held-out rows.

    (base_k - loss_k) / (base_k - oracle_k), all three measured at the client, at the end. Left out
    are clients whose oracle gains less than `SMALL` of the median client's: there is no share.

    Returns:
        By client; None: its loss is no finite number any more. Empty where results do not say.
    """
    if line.status != "done" or oracle is None:
        return {}
    ideal = {
        client: (each.before, each.before - each.after)
        for client, each in oracle.own.items()
        if client in line.own and each.before is not None and each.after is not None
    }
    if not ideal:
        return {}
    enough = SMALL * max(0.0, median(gain for _, gain in ideal.values()))
    shares: dict[int, float | None] = {}
    for client, (before, gain) in ideal.items():
        after = line.own[client].after
        if gain > 0 and gain >= enough:
            shares[client] = None if after is None else (before - after) / gain
    return shares


def worst_honest(lines: Mapping[int, Outcome], oracles: Mapping[int, Outcome]) -> Least | None:
    """The honest client with the least share of its oracle's gain, over the seeds of a cell."""
    found = [
        Least(kept=share, client=client, name=line.name_of(client), seed=seed)
        for seed, line in lines.items()
        for client, share in client_shares(line, oracles.get(seed)).items()
    ]
    return min(found, key=lambda one: one.rank, default=None)
