"""One cell of a table, over its seeds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fedtune.attack_bench.backdoors import backdoor_facts, floor_of
from fedtune.attack_bench.gains import gain_curve, least_of, worst_honest
from fedtune.attack_bench.interval import stat
from fedtune.attack_bench.schema import FLOORS, MEAN_OF_ALL, ORACLE
from fedtune.records.bench_figures import Curve, Floor, Stat
from fedtune.records.bench_result import STATUSES, ClientStanding, Line, Status
from fedtune.records.bench_summary import CellSummary

BySeed = dict[int, Line]


@dataclass(frozen=True)
class Results:
    """The results of one fraction of attackers, by attack, defence and seed."""

    lines: Mapping[tuple[str, str], BySeed]
    seeds: Sequence[int]

    @classmethod
    def of(cls, lines: Sequence[Line], fraction: float, seeds: Sequence[int]) -> Results:
        """Those of a fraction."""
        found: dict[tuple[str, str], BySeed] = {}
        for line in lines:
            if line.fraction == fraction:
                found.setdefault((line.attack, line.defence), {})[line.seed] = line
        return cls(found, seeds)

    def of_cell(self, attack: str, defence: str) -> BySeed:
        """The results of one cell, by seed."""
        return self.lines.get((attack, defence), {})

    def floor(self) -> Floor | None:
        """The floor of a backdoor at this fraction, where the bench has its cells."""
        return floor_of({label: self.of_cell(label, MEAN_OF_ALL) for label in FLOORS})


def gain_of(oracle: Line | None) -> float | None:
    """What a reference has gained; None where a share of it has no meaning."""
    if oracle is None or oracle.base is None or oracle.loss is None:
        return None
    return oracle.base - oracle.loss if oracle.base > oracle.loss else None


def retained_gain(line: Line, oracle: Line | None) -> float | None:
    """(base - loss) / (base - oracle) of a run that is done; else None, and without a share."""
    whole = gain_of(oracle)
    if line.status != "done" or whole is None or line.base is None or line.loss is None:
        return None
    return (line.base - line.loss) / whole


def counted_gain(line: Line, oracle: Line | None) -> float | None:
    """What a run counts as where the worst is looked for.

    Of one that stopped 0: the server could not go on, and what it had until then is no model that
    anyone asked for. Of one that diverged minus infinity: its model is worse than any number.
    """
    if line.status in {"stopped", "diverged"}:
        return 0.0 if line.status == "stopped" else -math.inf
    return retained_gain(line, oracle)


def share_lost(line: Line, everyone: Line | None) -> float | None:
    """The tax of a run with no attacker: what it lacks of the gain of the mean of all, as a share.

    All of it of a run that stopped; None of one that diverged, which no share describes.
    """
    kept = counted_gain(line, everyone)
    return None if kept is None or kept == -math.inf else 1.0 - kept


def cell_summary(results: Results, attack: str, defence: str) -> CellSummary:
    """All that is shown of one attack on one defence."""
    lines, oracles = results.of_cell(attack, defence), results.of_cell(ORACLE, MEAN_OF_ALL)
    curves = {seed: gain_curve(line, oracles.get(seed)) for seed, line in lines.items()}
    clients = [each for line in lines.values() for each in line.clients.values()]
    attackers = [each for each in clients if each.attacker]
    honest = [each for each in clients if not each.attacker]
    cell = CellSummary(
        attack=attack,
        defence=defence,
        status=_status(lines),
        seeds=_counts(lines, results.seeds),
        without_oracle=len(_without_oracle(lines, oracles)),
        message=message_of(lines, oracles, results.seeds),
        retained=stat({s: retained_gain(line, oracles.get(s)) for s, line in lines.items()}),
        gain_curves=[Curve(seed=s, points=points) for s, points in curves.items() if points],
        least=least_of(curves),
        worse_than_base=_worse_than_base(lines),
        worst_honest=worst_honest(lines, oracles),
        loss=_stat(lines, lambda line: line.loss),
        worst_client=_stat(lines, _worst_loss),
        oracle_worst_client=_stat(oracles, _worst_loss) if lines else None,
        backdoor=_stat(lines, lambda line: line.backdoor.after if line.backdoor else None),
        backdoor_before=_stat(lines, lambda line: line.backdoor.before if line.backdoor else None),
        **backdoor_facts(lines, results.floor()),
        refused_share=_share(attackers, dropped=False),
        attacker_weight=_mean_weight(attackers),
        honest_dropped_share=_share(honest, dropped=True),
        attackers_dropped_share=_share(attackers, dropped=True),
        curves=[Curve(seed=s, points=line.curve) for s, line in lines.items() if line.curve],
        commands=[line.command for line in lines.values()],
    )
    return cell.model_copy(update={"kept": _kept(cell, lines, oracles)})


def _kept(cell: CellSummary, lines: BySeed, oracles: BySeed) -> float | None:
    """The mean of what the seeds count as or, where that is less, 1 - the excess of a backdoor."""
    counted = [counted_gain(line, oracles.get(seed)) for seed, line in lines.items()]
    known = [gain for gain in counted if gain is not None]
    if not known or -math.inf in known:  # JSON has no infinity: `seeds` says who diverged
        return None
    kept = math.fsum(known) / len(known)
    return kept if cell.excess is None else min(kept, 1.0 - cell.excess)


def _worse_than_base(lines: BySeed) -> list[int]:
    """The seeds whose run ended worse than its base; one that diverged did."""
    return [
        seed
        for seed, line in lines.items()
        if line.status == "diverged"
        or (line.status == "done" and (line.loss or 0.0) > (line.base or 0.0))
    ]


def _status(lines: BySeed) -> Status:
    found = {line.status for line in lines.values()}
    return next((status for status in STATUSES if status in found), "missing")


def _counts(lines: BySeed, seeds: Sequence[int]) -> dict[Status, int]:
    found = Counter(line.status for line in lines.values())
    return {status: found[status] for status in STATUSES} | {"missing": len(seeds) - len(lines)}


def _without_oracle(lines: BySeed, oracles: BySeed) -> list[int]:
    """The seeds that are done and have no share, because their oracle has gained nothing."""
    done = (seed for seed, line in lines.items() if line.status == "done")
    return [seed for seed in done if gain_of(oracles.get(seed)) is None]


def message_of(
    lines: BySeed, references: BySeed, seeds: Sequence[int], *, against: str = "oracle"
) -> str:
    """What there is to say of the seeds of a cell that is not in its numbers.

    Args:
        lines: Its results by seed.
        references: Those whose gain is the whole.
        seeds: All that were asked for.
        against: What the references are called.
    """
    told = {line.message: None for line in lines.values() if line.message}
    counts = _counts(lines, seeds)
    for status in STATUSES[1:]:
        if lines and 0 < counts[status] < len(seeds):
            words = "not run" if status == "missing" else status
            told[f"{counts[status]} of {len(seeds)} seeds {words}"] = None
    if lost := len(_without_oracle(lines, references)):
        why = f"their {against} gained nothing, or has no result"
        told[f"{lost} of {len(seeds)} seeds do not count: {why}"] = None
    return "; ".join(told)


def _stat(lines: BySeed, value: Callable[[Line], float | None]) -> Stat | None:
    return stat({seed: value(line) for seed, line in lines.items()})


def _worst_loss(line: Line) -> float | None:
    return None if line.worst_client is None else line.worst_client.loss


def _share(clients: Sequence[ClientStanding], *, dropped: bool) -> float | None:
    """Refused, or dropped too, of all rounds asked; None where the rule does not say who was."""
    if dropped and not all(each.gives_weights for each in clients):
        return None
    asked = sum(each.asked for each in clients)
    lost = sum(each.refused + ((each.dropped or 0) if dropped else 0) for each in clients)
    return lost / asked if asked else None


def _mean_weight(clients: Sequence[ClientStanding]) -> float | None:
    weights = [each.weight for each in clients if each.weight is not None]
    return sum(weights) / len(weights) if weights and len(weights) == len(clients) else None
