"""Backdoor success beyond what the model says untriggered, and beyond the floor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedtune.attack_bench.interval import stat
from fedtune.attack_bench.schema import FLOORS
from fedtune.records.bench_figures import Floor, FloorRate, Peak, Stat
from fedtune.records.bench_result import Outcome


def net_curve(line: Outcome) -> list[tuple[int, float]]:
    """Success with the trigger less success without it, at each measured round from 1.

    Empty where a run plants no backdoor, is not done, or was measured before there was a word for
    it.
    """
    if line.status != "done" or line.backdoor is None:
        return []
    return [
        (round_, success - without)
        for round_, success, without in line.backdoor.curve
        if round_ and success is not None and without is not None
    ]


def at_end(line: Outcome) -> float | None:
    """The last of the curve."""
    curve = net_curve(line)
    return curve[-1][1] if curve else None


def at_most(line: Outcome) -> float | None:
    """The largest over the rounds."""
    return max((success for _, success in net_curve(line)), default=None)


def floor_of(cells: Mapping[str, Mapping[int, Outcome]]) -> Floor | None:
    """What no rule can stop: the success of honest training on poisoned rows under the plain mean.

    Attackers run the recipe's own trainer on rows poisoned at the rates of ``FLOORS`` and send the
    result unchanged, the server takes the mean of all n. The worst rate of each seed counts.

    Args:
        cells: The runs of each label of ``FLOORS``, by seed.

    Returns:
        Statistics over the seeds of which every rate is measured, and of each rate. None where the
        bench has no such cells.
    """
    if not any(cells.values()):
        return None
    rates = [
        FloorRate(rate=rate, end=_stat(cells[label], at_end), most=_stat(cells[label], at_most))
        for label, rate in FLOORS.items()
    ]
    end, most = _worst([each.end for each in rates]), _worst([each.most for each in rates])
    return Floor(end=end, most=most, rates=rates)


def above(own: Stat | None, floor: Stat | None) -> Stat | None:
    """How far a success is above the floor of the same seed, by seed."""
    if own is None or floor is None:
        return None
    return stat(
        {
            int(seed): value - limit
            for seed, value in own.values.items()
            if value is not None and (limit := floor.values.get(seed)) is not None
        }
    )


def backdoor_facts(lines: Mapping[int, Outcome], floor: Floor | None) -> dict[str, Any]:
    """All that a cell's runs say of the backdoor beside its plain success, by field of the cell."""
    net, most = _stat(lines, at_end), _stat(lines, at_most)
    peaks = [
        (success, -round_, -seed)
        for seed, line in lines.items()
        for round_, success in net_curve(line)
    ]
    peak = max(peaks, default=None)
    floor = floor or Floor()
    return {
        "backdoor_net": net,
        "backdoor_most": most,
        "backdoor_peak": peak and Peak(success=peak[0], round=-peak[1], seed=-peak[2]),
        "above_floor": above(net, floor.end),
        "most_above_floor": above(most, floor.most),
    }


def _stat(lines: Mapping[int, Outcome], value: Callable[[Outcome], float | None]) -> Stat | None:
    return stat({seed: value(line) for seed, line in lines.items()})


def _worst(rates: Sequence[Stat | None]) -> Stat | None:
    """By seed the largest over all rates; a seed that lacks one has none: it may be the worst."""
    known = [each.values for each in rates if each is not None]
    if len(known) < len(rates):
        return None
    by_seed = {
        seed: [one for values in known if (one := values.get(seed)) is not None]
        for seed in sorted(known[0], key=int)
    }
    return stat({int(k): max(each) for k, each in by_seed.items() if len(each) == len(known)})
