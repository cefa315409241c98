"""What the panel of one cell says, in words; the script only lays it out."""

from __future__ import annotations

from typing import Any

from fedtune.records.bench_summary import AttackSummary, CellSummary, DefenceSummary, TableSummary
from fedtune.report.pages.chart import wants_log
from fedtune.report.pages.gain import gain, percent_of, points, where_of, with_interval


def cell_details(
    table: TableSummary, attack: AttackSummary, defence: DefenceSummary, cell: CellSummary | None
) -> dict[str, Any]:
    """Everything that is known of one cell, ready to be shown.

    Returns:
        ``title``, ``where``, ``say``, ``facts`` (pairs of label and text), ``dropped`` (pairs of
        label and share, None if not known), ``log`` (whether the curves need a logarithmic scale),
        ``curves``, ``commands``; for `script_json`.
    """
    return {
        "title": f"{attack.label} on {defence.label}",
        "where": f"{table.num_attackers} of {table.num_clients} clients attack; "
        f"the server assumes f = {table.f if defence.f is None else defence.f}",
        "say": sentence(cell),
        "facts": [*_figures(cell), *_about(attack, defence)],
        "dropped": _dropped(cell),
        "log": _wants_log(table, cell),
        "curves": [{"seed": str(one.seed), "points": one.points} for one in cell.curves]
        if cell is not None
        else [],
        "commands": list(cell.commands) if cell is not None else [],
    }


def sentence(cell: CellSummary | None) -> str:
    """Say in one sentence what happened in a cell."""
    reason = f": {cell.message}" if cell is not None and cell.message else ""
    if cell is None or cell.status == "missing":
        return f"Not run yet{reason}."
    if cell.status == "skipped":
        return f"Left out{reason}."
    if cell.status == "refused":
        return f"The rule refuses these counts{reason}."
    if cell.status == "stopped":
        return f"The run broke off{reason}. In the worst case it counts as 0."
    if cell.status == "diverged":
        return f"The run diverged{reason}. It counts as worse than any number."
    if cell.status == "crashed":
        return f"Crashed, which says nothing of the defence{reason}. The bench runs it again."
    if cell.retained is None:
        return f"No retained gain is known{reason}."
    kept = cell.retained.mean
    words = (
        f"Keeps {gain(kept)} of the gain that the honest clients reach alone"
        if kept >= 0
        else f"Ends worse than the untrained base (retained gain {gain(kept)})"
    )
    if cell.backdoor is not None:
        words += f"; the trigger is obeyed in {percent_of(cell.backdoor.mean)} of prompts"
    if cell.refused_share:
        words += f"; {percent_of(cell.refused_share)} of the attackers' replies were refused"
    return f"{words}{reason}."


def _figures(cell: CellSummary | None) -> list[tuple[str, str]]:
    if cell is None:
        return []
    facts = []
    if cell.retained is not None and cell.status == "done":
        facts.append(("Retained gain, 95 % interval", with_interval(cell.retained, as_gain=True)))
        if len(cell.retained.values) > 1:
            each = ", ".join(
                f"{gain(value)} (seed {seed})" for seed, value in cell.retained.values.items()
            )
            facts.append(("Each seed", each))
    facts += _of_rounds(cell)
    if cell.behind_best is not None:
        facts.append(("Behind the best defence here", with_interval(cell.behind_best)))
    if cell.loss is not None:
        facts.append(("Loss at the end", with_interval(cell.loss)))
    if cell.worst_client is not None:
        facts.append(("Loss of the worst honest client", with_interval(cell.worst_client)))
    if cell.oracle_worst_client is not None:
        facts.append(("The same, honest alone", with_interval(cell.oracle_worst_client)))
    facts += _of_backdoor(cell)
    if cell.refused_share is not None:
        facts.append(("Attackers' replies refused", percent_of(cell.refused_share)))
    if cell.attacker_weight is not None:
        facts.append(("Weight of an attacker", f"{cell.attacker_weight:.2f} of a fair share"))
    return facts


def _of_rounds(cell: CellSummary) -> list[tuple[str, str]]:
    """The least of all rounds, the worst honest client, and who ended below the base."""
    facts = []
    if cell.least is not None:
        facts.append(("Least gain, any round", f"{gain(cell.least.rank)} ({where_of(cell.least)})"))
    if cell.worse_than_base:
        facts.append(("Worse than its base", f"{len(cell.worse_than_base)} of {cell.of} seeds"))
    if (worst := cell.worst_honest) is not None:
        facts.append(
            ("Worst honest client, share of its gain", f"{gain(worst.rank)} ({where_of(worst)})")
        )
    return facts


def _of_backdoor(cell: CellSummary) -> list[tuple[str, str]]:
    if cell.backdoor is None:
        return []
    was = cell.backdoor_before
    before, after = percent_of(None if was is None else was.mean), percent_of(cell.backdoor.mean)
    facts = [("Trigger obeyed, before to after", f"{before} to {after}")]
    shares = (
        ("Less what is said without it", cell.backdoor_net),
        ("The same, at most in any round", cell.backdoor_most),
    )
    facts += [(label, percent_of(one.mean)) for label, one in shares if one is not None]
    over = (
        ("Above the floor, at the end", cell.above_floor),
        ("Above the floor, at most", cell.most_above_floor),
    )
    facts += [(label, f"{points(one.mean)} points") for label, one in over if one is not None]
    return facts


def _about(attack: AttackSummary, defence: DefenceSummary) -> list[tuple[str, str]]:
    options = ", ".join(f"{key} {value}" for key, value in attack.options.items())
    about = "; ".join(part for part in (attack.summary, options) if part)
    tuned = {None: "", True: "yes", False: "no: as tuned elsewhere"}[attack.searched]
    pairs = (
        (f"Attack: {attack.label}", about),
        ("Re-optimised against this defence", tuned),
        (f"Defence: {defence.label}", defence.what),
    )
    return [(label, text) for label, text in pairs if text]


def _dropped(cell: CellSummary | None) -> list[tuple[str, float | None]]:
    """None: not known, as of a rule that gives no weights."""
    if cell is None or cell.status != "done":
        return []
    return [
        ("attackers", cell.attackers_dropped_share),
        ("honest clients", cell.honest_dropped_share),
    ]


def _wants_log(table: TableSummary, cell: CellSummary | None) -> bool:
    points = [] if cell is None else [loss for one in cell.curves for _, loss in one.points]
    losses = [*points, table.base.mean if table.base else None]
    known = [loss for loss in losses if loss is not None]
    return bool(known) and wants_log(known)
