"""What a bench says, in plain words: which defence, what it costs, and where none holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedtune.records.bench_summary import CellSummary, DefenceSummary, TableSummary, by_rank

CLEARLY = 0.1  # of the gain: less is no reason to look for another defence


@dataclass(frozen=True)
class Leak:
    """An attack that a defence, or every defence, does not hold; and the best that was seen.

    Attributes:
        attack: Its label.
        best: The cell that keeps most of the gain, or, against a backdoor, obeys it least.
    """

    attack: str
    best: CellSummary


@dataclass(frozen=True)
class Verdict:
    """One table's answer for one defence.

    Attributes:
        table: Of which fraction.
        choice: The defence that is judged.
        best_here: The defence of the best worst case in this table alone.
        own_leaks: What the choice does not hold though another defence does, with that one.
        behind: Beside these, where another counts for more than `CLEARLY` more, with that one.
        none_holds: What no defence holds.
        untested: Attacks against which the choice was not measured.
        held: Against how many attacks the choice holds.
        tried: Of how many.
        all_fail: Whether no defence here is above 0 in its worst case.
    """

    table: TableSummary
    choice: DefenceSummary
    best_here: DefenceSummary
    own_leaks: tuple[Leak, ...]
    behind: tuple[Leak, ...]
    none_holds: tuple[Leak, ...]
    untested: tuple[str, ...]
    held: int
    tried: int
    all_fail: bool


def choose(tables: Sequence[TableSummary]) -> str | None:
    """The label of the defence to use, over all tables.

    Only those with the fewest gaps are looked at: attacks against which some defence was
    measured, and this one not; and of these only those of the most seeds. Of what is left the one
    that holds against most attacks, a backdoor being held where the gain is kept and the trigger
    not obeyed; then the best worst case, in which a cell counts as the lesser of the gain kept and
    1 - the excess of its backdoor (0 where the run broke off, less than anything where it
    diverged); then the lowest tax. The number of attacks held comes first because one that nobody
    holds, as a backdoor in honest-looking data, would else decide the worst case of all by noise.
    """
    shared = set.intersection(*({one.label for one in table.defences} for table in tables))
    order = [one.label for one in tables[0].defences if one.label in shared]
    known = [label for label in order if None not in _worst(tables, label)]
    if not known:
        return None
    gaps = {
        label: (
            sum(len(gaps_of(table, label)) for table in tables),
            -min(_find(table, label).num_seeds for table in tables),
        )
        for label in known
    }
    fewest = min(gaps.values())

    def merit(label: str) -> tuple[int, float, float]:
        held = sum(cell.holds for table in tables for cell in row_of(table, label))
        worst = min(each for each in _worst(tables, label) if each is not None)
        return held, worst, -max(_tax(_find(table, label)) for table in tables)

    return max((label for label in known if gaps[label] == fewest), key=merit)


def judge(table: TableSummary, label: str) -> Verdict:
    """Say of one table how the chosen defence does there, and what none holds."""
    none_holds, own_leaks, behind = [], [], []
    for attack in table.attacks:
        column = column_of(table, attack.label)
        best, own = best_of(column), table.grid.get((label, attack.label))
        if best is None:
            continue
        if not best.holds:
            none_holds.append(Leak(attack.label, best))
        if own is None or not own.tested or own.rank is None:
            continue
        most = max((cell for cell in column if cell.tested), key=by_rank)
        if best.holds and not own.holds:
            own_leaks.append(Leak(attack.label, best))
        elif by_rank(most) - by_rank(own) > CLEARLY:
            behind.append(Leak(attack.label, most))
    row = [cell for cell in row_of(table, label) if cell.tested]
    return Verdict(
        table=table,
        choice=_find(table, label),
        best_here=ranked(table)[0],
        own_leaks=tuple(own_leaks),
        behind=tuple(behind),
        none_holds=tuple(none_holds),
        untested=tuple(gaps_of(table, label)),
        held=sum(cell.holds for cell in row),
        tried=len(row),
        all_fail=all((one.rank or 0.0) <= 0 for one in table.defences),
    )


def ranked(table: TableSummary) -> list[DefenceSummary]:
    """The defences, best worst case first; unknown ones last; ties go to the lower tax."""

    def merit(one: DefenceSummary) -> tuple[bool, float, float]:
        return one.rank is None, -(one.rank or 0.0), _tax(one)

    return sorted(table.defences, key=merit)


def column_of(table: TableSummary, attack: str) -> list[CellSummary]:
    """The cells of one attack."""
    found = (table.grid.get((one.label, attack)) for one in table.defences)
    return [cell for cell in found if cell is not None]


def row_of(table: TableSummary, label: str) -> list[CellSummary]:
    """The cells of one defence."""
    found = (table.grid.get((label, one.label)) for one in table.attacks)
    return [cell for cell in found if cell is not None]


def best_of(column: Sequence[CellSummary]) -> CellSummary | None:
    """The cell that does best: holds first, then least obeyed in tenths, then most retained.

    A run that broke off or diverged obeys no trigger, and is no answer to a backdoor: it stands
    below all that are done.

    Returns:
        None where nothing was measured.
    """

    def merit(cell: CellSummary) -> tuple[bool, bool, float, float]:
        obeyed = round(max(0.0, cell.excess or 0.0), 1)
        return cell.holds, cell.status == "done", -obeyed, _gain(cell)

    return max((cell for cell in column if cell.tested), key=merit, default=None)


def gaps_of(table: TableSummary, label: str) -> list[str]:
    """The attacks that some defence was measured against, and this one not."""
    gaps = []
    for attack in table.attacks:
        own = table.grid.get((label, attack.label))
        asked = any(cell.tested for cell in column_of(table, attack.label))
        if asked and (own is None or not own.tested):
            gaps.append(attack.label)
    return gaps


def _gain(cell: CellSummary) -> float:
    """The gain kept, whatever the backdoor; nothing where a seed diverged."""
    if cell.seeds.get("diverged") or cell.retained is None:
        return -math.inf
    return cell.retained.mean


def _worst(tables: Sequence[TableSummary], label: str) -> list[float | None]:
    return [_find(table, label).rank for table in tables]


def _tax(one: DefenceSummary) -> float:
    """What is not known is no bargain."""
    return math.inf if one.tax is None else one.tax.mean


def _find(table: TableSummary, label: str) -> DefenceSummary:
    return next(one for one in table.defences if one.label == label)
