"""From the lines of results.jsonl to what a page and a table show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from attacks import ATTACKS
from fedtune.attack_bench.cells import Cell
from fedtune.attack_bench.gains import worst_honest
from fedtune.attack_bench.interval import stat
from fedtune.attack_bench.notes import notes
from fedtune.attack_bench.schema import MEAN_OF_ALL, NONE, ORACLE, Bench
from fedtune.attack_bench.silenced import silenced
from fedtune.attack_bench.table import Results, cell_summary, message_of, share_lost
from fedtune.origin import code_hash, machine
from fedtune.records.bench_figures import Least, SilencedPair
from fedtune.records.bench_result import Line
from fedtune.records.bench_summary import (
    AttackSummary,
    CellCounts,
    CellSummary,
    DefenceSummary,
    Summary,
    TableSummary,
    Worst,
    by_rank,
)


def summarise(
    bench: Bench, cells: Sequence[Cell], lines: Sequence[Line], *, command: str
) -> Summary:
    """The summary of a bench, done or on its way.

    Retained gain is (base - loss) / (base - oracle), tax the share of the gain of the mean of all
    that a defence loses with no attacker, both by seed, over the seeds that are done. A defence's
    worst attack is that of the least ``kept`` over the attacks of every goal: the retained gain or,
    where that is less, 1 - the excess of a backdoor's success over the base's. There a seed that
    stopped counts as 0, and one that diverged as worse than any number. Where its rule refuses the
    counts there is none.

    Args:
        bench: What was run.
        cells: All of its cells.
        lines: As in results.jsonl.
        command: What makes it again.

    Returns:
        With one table per fraction.
    """
    from fedtune.records.environment import environment

    ended = [line for line in lines if line.status != "crashed"]
    made = [line for line in lines if line.code is not None]
    return Summary(
        title=bench.title,
        notes=notes(bench),
        command=command,
        machine=", then ".join(sorted({str(line.machine) for line in made})) or machine(),
        versions=environment()["versions"],
        seeds=list(bench.seeds),
        **shared_by_all(bench),
        chosen_on=None if bench.chosen_on is None else bench.chosen_on.model_dump(mode="json"),
        code=sorted({str(line.code) for line in made}),
        code_now=code_hash(),
        cells=CellCounts(done=len(ended), of=len(cells)),
        seconds=round(sum(line.seconds for line in _runs(lines)), 1),
        tables=[_table(bench, cells, lines, fraction) for fraction in bench.fractions],
    )


def _runs(lines: Sequence[Line]) -> list[Line]:
    """Each run once: tables share those in which no one attacks."""
    return list({line.cell: line for line in lines if line.cell}.values())


def shared_by_all(bench: Bench) -> dict[str, Any]:
    """What all cells have in common: with another of these a matrix is another."""
    return {
        "level": bench.level,
        "base_recipe": bench.base,
        "set": dict(bench.set),
        "rounds": None if bench.rounds is None else bench.rounds.model_dump(mode="json"),
    }


def _table(
    bench: Bench, cells: Sequence[Cell], lines: Sequence[Line], fraction: float
) -> TableSummary:
    results = Results.of(lines, fraction, bench.seeds)
    oracle, everyone = results.of_cell(ORACLE, MEAN_OF_ALL), results.of_cell(NONE, MEAN_OF_ALL)
    facts = [
        cell_summary(replace(results, seeds=bench.seeds_of(defence)), attack, defence)
        for attack in bench.attacks
        for defence in bench.defences
    ]
    facts = _behind_best(facts)
    first = next(cell for cell in cells if cell.attack == ORACLE and cell.fraction == fraction)
    count = first.num_attackers
    return TableSummary(
        fraction=fraction,
        num_attackers=count,
        num_clients=first.num_clients,
        f=count if bench.f is None else bench.f,
        base=stat({seed: line.base for seed, line in oracle.items()}),
        oracle=stat({seed: line.loss for seed, line in oracle.items()}),
        mean_of_all=stat({seed: line.loss for seed, line in everyone.items()}),
        floor=results.floor(),
        attacks=[_attack(label, options) for label, options in bench.attacks.items()],
        defences=[_defence(bench, results, label, facts) for label in bench.defences],
        cells=facts,
    )


def _attack(label: str, given: Mapping[str, Any]) -> AttackSummary:
    attack = ATTACKS[given["name"]]
    options = {key: value for key, value in given.items() if key != "name"}
    return AttackSummary(
        label=label,
        name=attack.name,
        goal=attack.goal,
        options=options,
        summary=attack.summary,
        searched="search" in options or "defence" in attack.needs,
    )


def _defence(
    bench: Bench, results: Results, label: str, cells: Sequence[CellSummary]
) -> DefenceSummary:
    mine = [cell for cell in cells if cell.defence == label and cell.rank is not None]
    free, everyone = results.of_cell(NONE, label), results.of_cell(NONE, MEAN_OF_ALL)
    seeds = bench.seeds_of(label)
    attacked = (
        line for attack in bench.attacks for line in results.of_cell(attack, label).values()
    )
    return DefenceSummary(
        label=label,
        what=describe(bench, label),
        f=bench.defences[label].get("aggregator", {}).get("f"),
        num_seeds=len(seeds),
        tax=stat({seed: share_lost(line, everyone.get(seed)) for seed, line in free.items()}),
        tax_message=message_of(free, everyone, seeds, against="mean of all"),
        worst=_worst(mine),
        least=_least(mine, "least"),
        worst_honest=_least(mine, "worst_honest"),
        worst_honest_free=worst_honest(free, everyone),
        silenced=SilencedPair(free=silenced(free.values()), attacked=silenced(attacked)),
        commands=[line.command for line in free.values()],
    )


def _worst(cells: Sequence[CellSummary]) -> Worst | None:
    if not cells:
        return None
    worst = min(cells, key=by_rank)
    ends = {status: worst.seeds[status] > 0 for status in ("stopped", "diverged")}
    return Worst(attack=worst.attack, kept=worst.kept, **ends)


def _least(cells: Sequence[CellSummary], key: str) -> Least | None:
    """The least share that the cells of a defence name, with its attack."""
    known = [
        least.model_copy(update={"attack": cell.attack})
        for cell in cells
        if (least := getattr(cell, key)) is not None
    ]
    return min(known, key=lambda one: one.rank, default=None)


def _behind_best(cells: Sequence[CellSummary]) -> list[CellSummary]:
    """The cells, each with how much more by seed the best defence of its attack retained."""
    best: dict[str, CellSummary] = {}
    for cell in cells:
        known = best.get(cell.attack)
        if cell.retained is not None and (known is None or by_rank(cell) > by_rank(known)):
            best[cell.attack] = cell
    return [_behind(cell, best[cell.attack]) if cell.retained else cell for cell in cells]


def _behind(cell: CellSummary, best: CellSummary) -> CellSummary:
    assert cell.retained is not None
    assert best.retained is not None
    there = best.retained.values
    pairs = {
        int(seed): most - own
        for seed, own in cell.retained.values.items()
        if own is not None and (most := there.get(seed)) is not None
    }
    return cell.model_copy(update={"behind_best": stat(pairs)})


def describe(bench: Bench, label: str) -> str:
    """A column in words: mixings, rule, geometry, and whatever else it sets."""
    column = bench.defences[label]
    if not column:
        return "the base recipe's own"
    told = []
    for section, keys in column.items():
        rest = dict(keys)
        if section == "aggregator":
            mixing = [each if isinstance(each, str) else each.get("name") for each in
                      rest.pop("mixing", [])]  # fmt: skip
            told.append(" + ".join([*map(str, mixing), str(rest.pop("name", "mean"))]))
        else:
            told.append(section)
        told[-1] += "".join(f", {key} {value}" for key, value in rest.items())
    return "; ".join(told)
