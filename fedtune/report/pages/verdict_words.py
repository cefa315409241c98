"""The top of a bench's page: its verdict in sentences made from the figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fedtune.records.bench_summary import CellSummary, DefenceSummary
from fedtune.report.pages.gain import gain, percent_of, silenced_words, step, where_of
from fedtune.report.pages.verdict import Leak, Verdict, gaps_of, row_of

NAMED = 4  # attacks named in a sentence; the rest is counted


def verdict_facts(choice: str | None, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """What the page's template says of which defence to use, and where none holds.

    Args:
        choice: The defence, or None where nothing is measured yet.
        verdicts: Of each table, in order.
    """
    if choice is None:
        return {"choice": None}
    return {
        "choice": choice,
        "trust": trust(verdicts),
        "what": verdicts[0].choice.what,
        "fewer_seeds": by_fewer_seeds(verdicts),
        "cases": [_case(verdict) for verdict in verdicts],
        "leaks": _leaks(verdicts),
    }


def trust(verdicts: Sequence[Verdict]) -> str:
    """After "Use NAME": how far it is to be trusted."""
    worst = min(verdict.choice.rank or 0.0 for verdict in verdicts)
    leaks = any(verdict.own_leaks for verdict in verdicts)
    held = f"{sum(each.held for each in verdicts)} of {sum(each.tried for each in verdicts)}"
    none = "none under as many seeds" if by_fewer_seeds(verdicts) else "none"
    if any(verdict.untested for verdict in verdicts):
        return ", the best so far: it was not measured against everything."
    if not leaks and not any(verdict.none_holds for verdict in verdicts):
        return ": it holds against every attack tried."
    if worst <= 0 and any(verdict.all_fail for verdict in verdicts):
        return ", which only fails least: no defence here survives every attack."
    if not leaks and worst > 0:
        return ": it holds against every attack that any defence here holds against."
    if worst > 0:
        return f": {none} holds against more, {held}, but it does not hold against everything."
    return f": {none} holds against more, {held}, but not every attack leaves it a gain."


def by_fewer_seeds(verdicts: Sequence[Verdict]) -> list[str]:
    """The defences that hold against more than the choice, but were run under fewer seeds."""
    choice = verdicts[0].choice
    told = []
    for defence in verdicts[0].table.defences:
        rows = [row_of(verdict.table, defence.label) for verdict in verdicts]
        held = sum(cell.holds for row in rows for cell in row)
        tried = sum(cell.tested for row in rows for cell in row)
        more = held > sum(verdict.held for verdict in verdicts)
        if more and defence.num_seeds < choice.num_seeds:
            seeds = f"{defence.num_seeds} of {choice.num_seeds} seeds"
            told.append(f"{defence.label} holds against {held} of {tried}, under {seeds} alone.")
    return told


def _case(verdict: Verdict) -> dict[str, Any]:
    choice = verdict.choice
    return {
        "attackers": verdict.table.percent_attackers,
        "f": verdict.table.f,
        "shade": "" if choice.rank is None else f" t{step(choice.rank)}",
        "worst": gain(choice.rank),
        "attack": choice.worst.attack if choice.worst else "not known",
        "why": _why(verdict),
        "tax": percent_of(None if choice.tax is None else choice.tax.mean, digits=1),
        "notes": _notes(verdict),
    }


def _why(verdict: Verdict) -> str:
    """Why the worst case counts so little, where its retained gain alone does not tell."""
    choice = verdict.choice
    if choice.worst is None:
        return ""
    cell = verdict.table.grid.get((choice.label, choice.worst.attack))
    if choice.worst.stopped:
        return ", where the run broke off"
    if cell is None or cell.backdoor is None or not _is_by_trigger(cell):
        return ""
    return f", whose trigger is obeyed in {percent_of(cell.backdoor.mean)} of prompts"


def _notes(verdict: Verdict) -> list[str]:
    choice, other = verdict.choice, verdict.best_here
    notes = [f"It holds against {verdict.held} of {verdict.tried} attacks.", *_beside(choice)]
    for leaks, left_words in (
        (verdict.own_leaks, "that another defence holds; see the matrix"),
        (verdict.behind, "under which another keeps clearly more; see the matrix"),
    ):
        notes += [_compared(verdict, leak) for leak in leaks[:NAMED]]
        if (left := len(leaks) - NAMED) > 0:
            notes.append(f"And {left} more {left_words}.")
    if other.label != choice.label and _at_worst(other) > _at_worst(choice):
        note = f"At this fraction alone {other.label} keeps more, {gain(other.rank)}"
        gaps = gaps_of(verdict.table, other.label)
        notes.append(f"{note}, but was not measured against {_some(gaps)}." if gaps else f"{note}.")
    if verdict.untested:
        notes.append(f"Not measured against: {_some(verdict.untested)}.")
    return notes


def _beside(choice: DefenceSummary) -> list[str]:
    """What a mean over seeds at the end does not show of the choice."""
    told = []
    if (least := choice.least) is not None:
        told.append(f"Least in any round: {gain(least.rank)} ({where_of(least)}).")
    if (worst := choice.worst_honest) is not None:
        told.append(f"Worst honest client: {gain(worst.rank)} of its gain ({where_of(worst)}).")
    for words, silenced in (
        ("no attacker", choice.silenced.free),
        ("an attacker", choice.silenced.attacked),
    ):
        if silenced is not None and silenced.clients:
            told.append(f"Honest clients at weight 0 with {words}: {silenced_words(silenced)}.")
    return told


def _compared(verdict: Verdict, leak: Leak) -> str:
    own = verdict.table.grid[verdict.choice.label, leak.attack]
    trigger = any(_is_by_trigger(cell) for cell in (own, leak.best))
    return (
        f"{leak.attack}: it {_outcome(own, trigger)}; "
        f"{leak.best.defence} {_outcome(leak.best, trigger)}."
    )


def _is_by_trigger(cell: CellSummary) -> bool:
    """Whether it is the backdoor that this cell counts by, and not the gain."""
    if cell.excess is None or cell.retained is None:
        return False
    return 1 - cell.excess < cell.retained.mean


def _outcome(cell: CellSummary, trigger: bool) -> str:
    if cell.status != "done":
        return "diverges" if cell.status == "diverged" else "breaks off"
    broken = f" ({cell.broken})" if cell.broken else ""
    if trigger and cell.backdoor is not None:
        return f"obeys the trigger in {percent_of(cell.backdoor.mean)}{broken}"
    kept = gain(cell.retained.mean) if cell.retained else "an unknown part"
    return f"keeps {kept}{broken}"


def _leaks(verdicts: Sequence[Verdict]) -> list[tuple[str, str]]:
    """Each attack once, with what the best defence against it still leaves at each fraction."""
    found: dict[str, list[str]] = {}
    for verdict in verdicts:
        for leak in verdict.none_holds:
            outcome = f"{_left(leak.best)} at {verdict.table.percent_attackers}"
            found.setdefault(leak.attack, []).append(outcome)
    return [(attack, "; ".join(outcomes)) for attack, outcomes in found.items()]


def _left(best: CellSummary) -> str:
    if best.status != "done":
        return "every run diverged" if best.status == "diverged" else "every run broke off"
    if best.backdoor is not None:
        return f"trigger obeyed in {percent_of(best.backdoor.mean)} of prompts"
    return f"{gain(best.retained.mean)} kept" if best.retained else "an unknown part kept"


def _at_worst(one: DefenceSummary) -> float:
    return -math.inf if one.rank is None else one.rank


def _some(names: Sequence[str]) -> str:
    left = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {left} more" if left > 0 else "")
