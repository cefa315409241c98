"""Retained gain at every round, and each honest client's own share of its oracle's gain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

Line = Mapping[str, Any]
Point = tuple[int, float | None]

# Of the oracle's gain at the end, or of the median client's: a share of less is a share of noise.
SMALL = 0.1


def gain_curve(line: Line, oracle: Line | None) -> list[Point]:
    """(base - loss_t) / (base - oracle_t) at each round t from 1, oracle of the same seed.

    Rounds in which the oracle has made less than `SMALL` of its gain at the end are left out.

    Args:
        line: A run that is done.
        oracle: Its oracle.

    Returns:
        Round and retained gain; None where the loss is no finite number. Empty where the oracle has
        no gain, or either has no curve.
    """
    if line["status"] != "done" or oracle is None or oracle["loss"] is None:
        return []
    whole = oracle["base"] - oracle["loss"]
    if whole <= 0:
        return []
    ideal = {round_: loss for round_, loss in oracle["curve"] if round_ and loss is not None}
    curve: list[Point] = []
    for round_, loss in line["curve"]:
        if round_ not in ideal or (gain := oracle["base"] - ideal[round_]) < SMALL * whole:
            continue
        curve.append((round_, None if loss is None else (line["base"] - loss) / gain))
    return curve


def least_of(curves: Mapping[int, Sequence[Point]]) -> dict[str, Any] | None:
    """The least retained gain over all rounds of all seeds.

    Returns:
        ``kept`` (None: the loss was no finite number, which is less than any), ``round`` and
        ``seed``; None without any point.
    """
    points = [(kept, at, seed) for seed, curve in curves.items() for at, kept in curve]
    if not points:
        return None
    kept, round_, seed = min(points, key=lambda point: _rank(point[0]))
    return {"kept": kept, "round": round_, "seed": seed}


def client_shares(line: Line, oracle: Line | None) -> dict[int, float | None]:
    """Of each honest client, the share that it has of its oracle's gain on its own held-out rows.

    (base_k - loss_k) / (base_k - oracle_k), all three measured at the client, at the end. Left out
    are clients whose oracle gains less than `SMALL` of the median client's: there is no share.

    Returns:
        By client; None: its loss is no finite number any more. Empty where results do not say.
    """
    if line["status"] != "done" or oracle is None:
        return {}
    own, ideal = line.get("own") or {}, oracle.get("own") or {}
    gains = {
        client: ideal[client]["before"] - ideal[client]["after"]
        for client in own
        if client in ideal and None not in ideal[client].values()
    }
    if not gains:
        return {}
    enough = SMALL * max(0.0, median(gains.values()))
    shares: dict[int, float | None] = {}
    for client, gain in gains.items():
        before, after = ideal[client]["before"], own[client]["after"]
        if gain > 0 and gain >= enough:
            shares[int(client)] = None if after is None else (before - after) / gain
    return shares


def worst_honest(lines: Mapping[int, Line], oracles: Mapping[int, Line]) -> dict[str, Any] | None:
    """The honest client with the least share of its oracle's gain, over the seeds of a cell.

    Returns:
        ``kept`` (None: its loss is no finite number any more), ``client``, its ``name``, ``seed``;
        None where nothing tells.
    """
    found = [
        (share, client, seed)
        for seed, line in lines.items()
        for client, share in client_shares(line, oracles.get(seed)).items()
    ]
    if not found:
        return None
    kept, client, seed = min(found, key=lambda each: _rank(each[0]))
    return {"kept": kept, "client": client, "name": name_of(lines[seed], client), "seed": seed}


def name_of(line: Line, client: int) -> str:
    """What a client is called beside its number; empty if nothing."""
    names = line.get("client_names") or []
    return str(names[client]) if client < len(names) else ""


def _rank(kept: float | None) -> float:
    return -math.inf if kept is None else kept
