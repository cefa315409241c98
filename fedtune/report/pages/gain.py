"""Retained gain in figures and in steps of colour."""

from __future__ import annotations

import math

from fedtune.records.bench_figures import Least, Longest, Silenced, Stat
from fedtune.records.bench_summary import FAILS, HOLDS, CellSummary
from fedtune.report.text import figure

# Each step's least value. Orange below what holds, blue above: told apart by every common colour
# blindness, and the number stands in the cell besides.
STEPS: tuple[tuple[float, str], ...] = (
    (0.95, "0.95 and more"),
    (HOLDS, f"{HOLDS:.2f} to 0.95: holds"),
    (0.8, f"0.80 to {HOLDS:.2f}"),
    (FAILS, f"{FAILS:.2f} to 0.80"),
    (0.0, f"0 to {FAILS:.2f}"),
    (-math.inf, "below 0: worse than no training"),
)


def gain(value: float | None) -> str:
    """Write a retained gain in two digits, rounded down: 0.899 does not hold, nor reads as 0.90."""
    if value is None:
        return "–"
    if value == -math.inf:
        return "diverged"
    if abs(value) >= 10:
        return f"−{-value:.0f}" if -100 < value < 0 else "< −99" if value < 0 else f"{value:.0f}"
    down = math.floor(round(100 * value, 6)) / 100  # 0.29 is 28.999... hundredths
    return f"{down:.2f}".replace("-", "−")


def step(value: float) -> int:
    """The colour step of a retained gain: 0 is best."""
    rounded = round(value, 9) if math.isfinite(value) else value  # 1 - 0.1 is a little less
    return next(i for i, (least, _) in enumerate(STEPS) if rounded >= least)


def colour_step(cell: CellSummary) -> int | None:
    """The step of a cell: that of its gain, or of its backdoor where that is worse."""
    return None if cell.rank is None else step(cell.rank)


def spread(stat: Stat | None) -> str:
    """Half the width of the interval, as it stands below a figure; empty with one seed."""
    if stat is None or stat.low is None or stat.high is None:
        return ""
    half = (stat.high - stat.low) / 2
    return "±" + (f"{half:.2f}" if half < 10 else f"{half:.0f}" if half < 100 else "> 99")


def percent_of(value: float | None, *, digits: int = 0) -> str:
    """Write a share as a percentage that does not break, and has no negative zero."""
    if value is None:
        return "–"
    rounded = round(100 * value, digits) + 0.0  # -0.0 + 0.0 is 0.0
    return f"{rounded:.{digits}f}\u00a0%".replace("-", "−")


def points(share: float) -> str:
    """Write a difference of two shares in points, with its sign."""
    rounded = round(100 * share) + 0.0
    return f"{rounded:+.0f}".replace("-", "−")


def with_interval(stat: Stat | None, *, as_gain: bool = False) -> str:
    """Write a mean, its interval, and where the seeds lie."""
    if stat is None:
        return "–"
    write = gain if as_gain else lambda value: figure(value).replace("-", "−")
    if stat.low is None or stat.high is None:
        return f"{write(stat.mean)} (one seed: no interval)"
    return f"{write(stat.mean)} ({write(stat.low)} to {write(stat.high)})"


def who(one: Least | Longest) -> str:
    """A client, in words; empty where none is said."""
    named = f" ({one.name})" if one.name else ""
    return "" if one.client is None else f"client {one.client}{named}"


def where_of(least: Least) -> str:
    """Round, client, attack and seed of a least share, as far as they are said."""
    told = [] if least.round is None else [f"round {least.round}"]
    told += [part for part in (who(least), least.attack) if part]
    return ", ".join(told if least.seed is None else [*told, f"seed {least.seed}"])


def silenced_words(silenced: Silenced) -> str:
    """How many honest clients had no part, in what share of rounds, and who for longest."""
    if not silenced.clients:
        return "none"
    many = f"{silenced.clients} of {silenced.of}, in {100 * silenced.share:.0f} % of rounds"
    if (one := silenced.longest) is None:
        return many
    attack = f" under {one.attack}" if one.attack not in {"", "none"} else ""
    return f"{many}; {who(one)} in {one.rounds} of {one.asked}{attack}"
