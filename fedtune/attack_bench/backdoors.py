"""Backdoor success beyond what the model says untriggered, and beyond the floor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fedtune.attack_bench.interval import Stat, stat
from fedtune.attack_bench.schema import FLOORS

Line = Mapping[str, Any]


def net_curve(line: Line) -> list[tuple[int, float]]:
    """Success with the trigger less success without it, at each measured round from 1.

    Empty where a run plants no backdoor, is not done, or was measured before there was a word for
    it.
    """
    if line["status"] != "done" or line["backdoor"] is None:
        return []
    points = line["backdoor"].get("curve") or []
    return [
        (round_, success - without)
        for round_, success, without in points
        if round_ and None not in (success, without)
    ]


def at_end(line: Line) -> float | None:
    """The last of the curve."""
    curve = net_curve(line)
    return curve[-1][1] if curve else None


def at_most(line: Line) -> float | None:
    """The largest over the rounds."""
    return max((success for _, success in net_curve(line)), default=None)


def floor_of(cells: Mapping[str, Mapping[int, Line]]) -> dict[str, Any] | None:
    """What no rule can stop: the success of honest training on poisoned rows under the plain mean.

    Attackers run the recipe's own trainer on rows poisoned at the rates of ``FLOORS`` and send the
    result unchanged, the server takes the mean of all n. The worst rate of each seed counts.

    Args:
        cells: The runs of each label of ``FLOORS``, by seed.

    Returns:
        ``end`` and ``most`` (over the rounds), each a statistic over the seeds of which every rate
        is measured; and ``rates``, the same of each. None where the bench has no such cells.
    """
    if not any(cells.values()):
        return None
    rates = [
        {"rate": rate, "end": _stat(cells[label], at_end), "most": _stat(cells[label], at_most)}
        for label, rate in FLOORS.items()
    ]
    return {"end": _worst(rates, "end"), "most": _worst(rates, "most"), "rates": rates}


def above(own: Stat | None, floor: Stat | None) -> Stat | None:
    """How far a success is above the floor of the same seed, by seed."""
    if own is None or floor is None:
        return None
    pairs = {
        int(seed): value - floor["values"][seed]
        for seed, value in own["values"].items()
        if seed in floor["values"]
    }
    return stat(pairs)


def backdoor_facts(lines: Mapping[int, Line], floor: dict[str, Any] | None) -> dict[str, Any]:
    """All that a cell's runs say of the backdoor beside its plain success.

    Returns:
        ``backdoor_net`` and ``backdoor_most``, statistics; ``backdoor_peak``, the largest over all
        rounds and seeds with its ``round`` and ``seed``; ``above_floor`` and ``most_above_floor``.
        None where nothing tells.
    """
    net, most = _stat(lines, at_end), _stat(lines, at_most)
    peaks = [
        (success, -round_, -seed)
        for seed, line in lines.items()
        for round_, success in net_curve(line)
    ]
    peak = max(peaks, default=None)
    return {
        "backdoor_net": net,
        "backdoor_most": most,
        "backdoor_peak": None
        if peak is None
        else {"success": peak[0], "round": -peak[1], "seed": -peak[2]},
        "above_floor": above(net, floor and floor["end"]),
        "most_above_floor": above(most, floor and floor["most"]),
    }


def _stat(lines: Mapping[int, Line], value: Callable[[Line], float | None]) -> Stat | None:
    return stat({seed: value(line) for seed, line in lines.items()})


def _worst(rates: list[dict[str, Any]], key: str) -> Stat | None:
    """By seed the largest over all rates; a seed that lacks one has none: it may be the worst."""
    known = [each[key]["values"] for each in rates if each[key] is not None]
    if len(known) < len(rates):
        return None
    seeds = set.intersection(*(set(values) for values in known))
    return stat(
        {int(seed): max(values[seed] for values in known) for seed in sorted(seeds, key=int)}
    )
