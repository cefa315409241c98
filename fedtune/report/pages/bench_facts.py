"""A bench's summary.json as typed facts; what breaks the contract is refused by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from fedtune.report.pages.bench_clients import Least, Silenced, read_least, read_silenced
from fedtune.report.pages.bench_stat import Stat, level, read_stat
from fedtune.report.pages.markup import line
from fedtune.report.text import number

# done: at least one seed is. diverged: its loss is no finite number, or it broke off when it was
# worse than untrained; stopped: it broke off; crashed: it is no result, and is run again; refused:
# the rule refuses these counts; skipped: the attack has no meaning here; missing: not run yet.
Status = Literal["done", "diverged", "stopped", "crashed", "refused", "skipped", "missing"]
HOLDS = 0.9  # of the gain: a defence that retains this much holds
FAILS = 0.5  # below it most is lost: red in the terminal
STOPPED = 0.1  # a backdoor that answers at most this much more often than before is stopped


@dataclass(frozen=True)
class AttackFacts:
    """One column: an attack with its options.

    ``searched``: it is optimised anew against each defence; None: the summary does not say.
    """

    label: str
    goal: str
    options: str
    summary: str
    searched: bool | None


@dataclass(frozen=True)
class DefenceFacts:
    """One row: its tax without liars, and the attack under which it counts least.

    ``worst``: minus infinity where a run diverged. ``worst_stopped``: that attack broke a run off.
    ``own_f``: where the row assumes another f than its table. ``num_seeds``: of its cells.
    ``least``: of the gain over all rounds. ``worst_honest``: the honest client with the least share
    of its oracle's gain, under attack and (``worst_honest_free``) with no attacker. ``silenced``:
    the honest clients at weight 0, with no attacker and under attack. None: not known.
    """

    label: str
    what: str
    tax: Stat | None
    worst_attack: str | None
    worst: float | None
    worst_stopped: bool
    own_f: int | None
    num_seeds: int
    least: Least | None
    worst_honest: Least | None
    worst_honest_free: Least | None
    silenced: tuple[Silenced | None, Silenced | None]


@dataclass(frozen=True)
class Cell:
    """One attack on one defence; shares are None where nothing tells.

    ``rank``: what it counts as beside other cells: the least of the gain kept, a seed that stopped
    as 0, and of 1 - the excess of a backdoor; minus infinity where a seed diverged. ``stopped`` and
    ``diverged``: so many seeds, ``of`` so many; ``below_base``: so many ended worse than begun.
    ``backdoor_net``: success with the trigger less success without it, at the end, and
    ``backdoor_most`` at most over the rounds; each above the floor.
    """

    attack: str
    defence: str
    status: Status
    message: str
    retained: Stat | None
    loss: Stat | None
    behind_best: Stat | None
    worst_client: Stat | None
    oracle_worst_client: Stat | None
    backdoor: Stat | None
    backdoor_before: float | None
    refused_share: float | None
    liar_weight: float | None
    honest_dropped: float | None
    liars_dropped: float | None
    curves: tuple[tuple[str, list[tuple[float, float | None]]], ...]
    commands: tuple[str, ...]
    rank: float | None
    stopped: int
    diverged: int
    of: int
    least: Least | None
    worst_honest: Least | None
    below_base: int
    backdoor_net: Stat | None
    backdoor_most: Stat | None
    above_floor: Stat | None
    most_above_floor: Stat | None

    @property
    def tested(self) -> bool:
        """Whether it says anything of the defence; a run that broke off or diverged does."""
        return self.status in {"done", "stopped", "diverged"}

    @property
    def broken(self) -> str:
        """How many seeds of several did not end well, in words; empty if all did."""
        pairs = ((self.diverged, "diverged"), (self.stopped, "stopped"))
        return ", ".join(f"{count} of {self.of} {word}" for count, word in pairs if count)

    @property
    def excess(self) -> float | None:
        """How much more often the target is said with the trigger than without it.

        Where the summary does not say the second: than before training.
        """
        if self.backdoor is None:
            return None
        if self.backdoor_net is not None:
            return round(self.backdoor_net.mean, 9)
        # rounded: 0.4 - 0.3 is a little more than 0.1
        return round(self.backdoor.mean - (self.backdoor_before or 0.0), 9)

    @property
    def over_floor(self) -> float | None:
        """How far a backdoor is above the floor: at the end or at most, whichever is more."""
        known = [one.mean for one in (self.above_floor, self.most_above_floor) if one is not None]
        return max(known, default=None)

    @property
    def holds(self) -> bool:
        """Whether the gain is kept, and the backdoor, where there is one, stopped."""
        if self.status != "done" or self.broken or self.retained is None:
            return False
        kept = round(self.retained.mean, 9) >= HOLDS
        return kept and (self.excess is None or self.excess <= STOPPED)


@dataclass(frozen=True)
class Table:
    """All cells at one fraction of liars."""

    num_attackers: int
    num_clients: int
    f: int
    base: float | None
    oracle: float | None
    mean_of_all: float | None
    floor: Stat | None
    floor_most: Stat | None
    attacks: tuple[AttackFacts, ...]
    defences: tuple[DefenceFacts, ...]
    cells: Mapping[tuple[str, str], Cell]

    @property
    def percent_liars(self) -> str:
        """The fraction of liars, in words."""
        return f"{100 * self.num_attackers / self.num_clients:.0f}\u00a0% liars"


def read_tables(summary: Mapping[str, Any]) -> list[Table]:
    """Read the tables of a summary, in their order.

    Raises:
        ValueError: If the summary is not one that `fedtune bench` writes.
    """
    tables = summary.get("tables") if isinstance(summary, Mapping) else None
    if not isinstance(tables, Sequence) or isinstance(tables, str) or not tables:
        raise ValueError(f"a bench's summary needs tables: got {_kind(tables)}; {_AGAIN}")
    return [_table(table) for table in tables]


def _table(table: Any) -> Table:  # noqa: ANN401  a file's
    attacks = tuple(_attack(attack) for attack in _each(table, "attacks"))
    defences = tuple(_defence(defence) for defence in _each(table, "defences"))
    columns, rows = {attack.label for attack in attacks}, {one.label for one in defences}
    if len(columns) < len(attacks) or len(rows) < len(defences):
        raise ValueError(f"each label of a table needs to be its only one; {_AGAIN}")
    cells: dict[tuple[str, str], Cell] = {}
    for entry in _each(table, "cells"):
        cell = _cell(entry)
        if cell.attack not in columns or cell.defence not in rows:
            raise ValueError(
                f"a cell needs an attack and a defence of its table: got {cell.attack!r} on "
                f"{cell.defence!r}; {_AGAIN}"
            )
        cells[cell.defence, cell.attack] = cell
    return Table(
        num_attackers=_count(table, "num_attackers"),
        num_clients=max(1, _count(table, "num_clients")),
        f=_count(table, "f"),
        base=level(table.get("base")),
        oracle=level(table.get("oracle")),
        mean_of_all=level(table.get("mean_of_all")),
        floor=read_stat((table.get("floor") or {}).get("end")),
        floor_most=read_stat((table.get("floor") or {}).get("most")),
        attacks=attacks,
        defences=defences,
        cells=cells,
    )


def _attack(attack: Mapping[str, Any]) -> AttackFacts:
    options = attack.get("options") or {}
    pairs = options.items() if isinstance(options, Mapping) else ()
    return AttackFacts(
        label=line(attack.get("label")),
        goal=line(attack.get("goal") or "other"),
        options=", ".join(f"{line(key, 60)} {line(value, 60)}" for key, value in pairs),
        summary=line(attack.get("summary") or ""),
        searched=searched if isinstance(searched := attack.get("searched"), bool) else None,
    )


def _defence(defence: Mapping[str, Any]) -> DefenceFacts:
    worst = defence.get("worst") or {}
    return DefenceFacts(
        label=line(defence.get("label")),
        what=line(defence.get("what") or ""),
        tax=read_stat(defence.get("tax")),
        worst_attack=line(worst["attack"]) if worst.get("attack") is not None else None,
        worst=-math.inf if worst.get("diverged") is True else level(worst.get("kept")),
        worst_stopped=worst.get("stopped") is True,
        own_f=None if defence.get("f") is None else _count(defence, "f"),
        num_seeds=_count(defence, "num_seeds") if "num_seeds" in defence else 1,
        **{key: read_least(defence.get(key)) for key in _LEASTS},
        silenced=read_silenced(defence.get("silenced")),
    )


def _cell(cell: Mapping[str, Any]) -> Cell:
    status = cell.get("status")
    if status not in get_args(Status):
        known = ", ".join(get_args(Status))
        raise ValueError(f"a cell needs a status among: {known}; got {status!r}; {_AGAIN}")
    seeds = cell.get("seeds")
    if not isinstance(seeds, Mapping):
        raise ValueError(f"a cell needs seeds, their counts by status: got {seeds!r}; {_AGAIN}")
    counts = {key: _count(seeds, key) for key in ("done", "stopped", "diverged")}
    return Cell(
        attack=line(cell.get("attack")),
        defence=line(cell.get("defence")),
        status=cast(Status, status),
        message=line(cell.get("message") or "", 1000),
        **{key: read_stat(cell.get(key)) for key in _STATS},
        backdoor_before=level(cell.get("backdoor_before")),
        refused_share=level(cell.get("refused_share")),
        liar_weight=level(cell.get("liar_weight")),
        honest_dropped=level(cell.get("honest_dropped_share")),
        liars_dropped=level(cell.get("liars_dropped_share")),
        curves=tuple(_curve(curve) for curve in cell.get("curves") or ()),
        commands=tuple(str(command) for command in cell.get("commands") or ()),
        rank=-math.inf if counts["diverged"] else level(cell.get("kept")),
        stopped=counts["stopped"],
        diverged=counts["diverged"],
        of=sum(_count(seeds, key) for key in seeds),
        least=read_least(cell.get("least")),
        worst_honest=read_least(cell.get("worst_honest")),
        below_base=len(cell.get("worse_than_base") or ()),
    )


def _curve(curve: Mapping[str, Any]) -> tuple[str, list[tuple[float, float | None]]]:
    points = [(number(round_), number(loss)) for round_, loss in curve.get("points") or ()]
    return line(curve.get("seed")), [(at, loss) for at, loss in points if at is not None]


def _each(table: object, key: str) -> Sequence[Mapping[str, Any]]:
    found = table.get(key) if isinstance(table, Mapping) else None
    good = isinstance(found, Sequence) and all(isinstance(entry, Mapping) for entry in found)
    if not good or isinstance(found, str):
        raise ValueError(f"a table needs a list of {key}: got {_kind(found)}; {_AGAIN}")
    return cast(Sequence[Mapping[str, Any]], found)


def _count(table: Mapping[str, Any], key: str) -> int:
    value = table.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"a table needs {key}, a count: got {value!r}; {_AGAIN}")
    return value


def _kind(value: object) -> str:
    return "none" if value is None else f"a {type(value).__name__}"


_LEASTS = ("least", "worst_honest", "worst_honest_free")
_STATS = (
    "retained", "loss", "behind_best", "worst_client", "oracle_worst_client", "backdoor",
    "backdoor_net", "backdoor_most", "above_floor", "most_above_floor",
)  # fmt: skip
_AGAIN = "write it anew with fedtune bench"
