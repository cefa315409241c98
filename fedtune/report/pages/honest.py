"""What the matrix does not show: the least round, the worst honest client, who was silenced."""

from __future__ import annotations

from fedtune.records.bench_figures import Least, Silenced
from fedtune.records.bench_summary import DefenceSummary, TableSummary
from fedtune.report.pages.gain import gain, percent_of, silenced_words, step, where_of
from fedtune.report.pages.verdict import ranked

UNKNOWN = "not known"
HEADS = (
    "Defence",
    "Least gain, any round",
    "Worst honest client",
    "The same, no attacker",
    "Honest at weight 0, no attacker",
    "The same, under attack",
)
KEY = (
    "Least gain: of all rounds, attacks and seeds. Worst honest client: the least share of what "
    "the honest clients alone would have gained it, on its own held-out rows. At weight 0: honest "
    "clients whose reply weighed nothing or was refused; at most so many in a run, and in what "
    "share of the rounds in which honest clients were asked."
)


def honest_cells(defence: DefenceSummary) -> list[str]:
    """A defence's row under `HEADS`, without its name."""
    leasts = (defence.least, defence.worst_honest, defence.worst_honest_free)
    return [
        *map(_least, leasts),
        *map(_silenced, (defence.silenced.free, defence.silenced.attacked)),
    ]


def honest_rows(table: TableSummary) -> list[tuple[str, list[tuple[str, str]]]]:
    """The table of one fraction, defences in the matrix's order: words and shade of each cell."""
    return [(one.label, list(zip(honest_cells(one), _shades(one), strict=True)))
            for one in ranked(table)]  # fmt: skip


def _shades(defence: DefenceSummary) -> list[str]:
    leasts = (defence.least, defence.worst_honest, defence.worst_honest_free)
    return [*("" if one is None else f"g{step(one.rank)}" for one in leasts), "", ""]


def floor_words(table: TableSummary) -> str:
    """What honest training on poisoned rows reaches under the plain mean; empty if not measured."""
    if table.floor is None or table.floor.end is None:
        return ""
    end, highest = table.floor.end, table.floor.most
    most = "" if highest is None else f", at most {percent_of(highest.mean)}"
    return (
        f"Floor of a backdoor, by honest training on poisoned rows under the mean of all: "
        f"{percent_of(end.mean)} at the end{most} in any round."
    )


def tuned_words(table: TableSummary) -> str:
    """Which attacks are not searched anew against each defence; empty where it is not said."""
    known = [attack for attack in table.attacks if attack.searched is not None]
    fixed = [attack.label for attack in known if not attack.searched]
    if not known:
        return ""
    if not fixed:
        return "Every attack is re-optimised against each defence."
    return f"Not re-optimised against each defence, as tuned elsewhere: {', '.join(fixed)}."


def _least(least: Least | None) -> str:
    if least is None:
        return UNKNOWN
    kept, where = "no finite loss" if least.kept is None else gain(least.kept), where_of(least)
    return f"{kept}: {where}" if where else kept


def _silenced(silenced: Silenced | None) -> str:
    return UNKNOWN if silenced is None else silenced_words(silenced)
