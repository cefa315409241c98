"""From the lines of metrics.jsonl to the facts that the table and the picture show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from fedtune.records.lines import Figures, RoundRecord
from fedtune.report.figures import leading
from fedtune.report.text import number
from fedtune.report.undone import undone_in_words

if TYPE_CHECKING:  # it brings torch
    from fedtune.recipe import Recipe

PICTURE, PAGE = "curves.svg", "report.html"
LOW = 0.5  # of the fair share: below it a client counts as down-weighted


@dataclass(frozen=True)
class ClientFacts:
    """One client over all recorded rounds.

    Attributes:
        client: Its number.
        rounds_asked: Rounds in whose sample it was.
        mean_weight: Mean share over those rounds; a refused reply weighs nothing.
        fair_share: Mean of 1/n over the same rounds, n being the clients asked.
        times_low: Accepted replies that weighed less than half of 1/n.
        times_dropped: Rounds in which it was dropped, as `RoundRecord.dropped` has it; None where
            no record tells.
        far: Mean of its distance to the aggregate over the median client's in the same round.
        times_refused: Replies that were refused.
        reason: The commonest reason of these; a stranger's words.
        own_figure: Its own held-out loss or reward at the end, as it reports it.
    """

    client: int
    rounds_asked: int
    mean_weight: float | None
    fair_share: float | None
    times_low: int
    times_dropped: int | None
    far: float | None
    times_refused: int
    reason: str | None
    own_figure: float | None


@dataclass(frozen=True)
class RunFacts:
    """A run as far as its records go.

    ``leads`` names the figure that ``curve`` is of: reward where there is one, else loss.
    ``discarded`` is the mean share of the products' energy, in a round, that the adapter's rank
    could not hold, and ``discarded_of_change`` of the round's own change; None on factors.
    ``undone`` says what was undone by whom; None where nobody judged a step. ``best_round`` is the
    best by the figure that the recipe watches; ``stopped_early`` says that the run ended for want
    of a better one.
    """

    rounds: int
    base: Figures
    final: Figures
    leads: str
    curve: list[tuple[int, float | None]]
    upload_bytes: float
    download_bytes: float
    train_s: float
    aggregate_s: float
    round_s: float
    discarded: float | None
    discarded_of_change: float | None
    clients: list[ClientFacts]
    undone: str | None = None
    best_round: int | None = None
    stopped_early: bool = False


def summarise(records: Sequence[RoundRecord]) -> RunFacts:
    """Add up a run's records. What is missing from them is left out, never guessed."""
    measured = [(record.round, record.eval) for record in records if record.eval is not None]
    rounds = max((record.round for record in records), default=0)
    leads = leading(measured[-1][1]) if measured else "loss"
    return RunFacts(
        rounds=rounds,
        base=measured[0][1] if measured and measured[0][0] == 0 else {},
        final=measured[-1][1] if measured else {},
        leads=leads,
        curve=[(at, figures.get(leads)) for at, figures in measured],
        upload_bytes=sum(record.upload_bytes for record in records),
        download_bytes=sum(record.download_bytes for record in records),
        train_s=sum(record.train_s or 0.0 for record in records),
        aggregate_s=sum(record.aggregate_s or 0.0 for record in records),
        round_s=sum(record.round_s or 0.0 for record in records),
        discarded=_mean([each.discarded for each in records]),
        discarded_of_change=_mean([each.discarded_of_change for each in records]),
        clients=_client_facts(records, leads),
        undone=undone_in_words(records, rounds),
        best_round=next((one.best_round for one in reversed(records) if one.eval), None),
        stopped_early=bool(records) and records[-1].stopped_early,
    )


def best_in_words(facts: RunFacts) -> str | None:
    """Which round was best, and whether the run ended for want of a better one."""
    if facts.best_round is None:
        return None
    best = f"round {facts.best_round}" if facts.best_round else "the start"
    ended = "; the run ended early, for want of a better one" if facts.stopped_early else ""
    return f"Best: {best}, kept in adapter_best{ended}"


def trained(recipe: Recipe) -> str:
    """Task and base model in a few words; of a folder its name alone, for a page may be sent on."""
    name = recipe.model.name_or_path.replace("\\", "/").rstrip("/")
    is_path = name.startswith(("/", "~", ".")) or name[1:2] == ":"
    return f"{recipe.task} of {name.rpartition('/')[2] if is_path else name}"


def describe(recipe: Recipe) -> str:
    """A recipe in one line of ASCII: mixing, rule, f, geometry, outer optimizer, attack."""
    section = recipe.aggregator
    rule = " + ".join([*section.mixing_names, section.name])
    geometry = ", on products" * (section.geometry == "product")
    parts = [f"{rule}, f={section.f}{geometry}", recipe.outer.name]
    attack = recipe.attack
    if attack is not None and attack.num_attackers:
        attackers = f"{attack.num_attackers} of {recipe.federation.num_clients}"
        parts.append(f"{attackers} attack: {_with_numbers(attack.name, attack.options)}")
        if attack.poison is not None:
            parts[-1] += f" on {_with_numbers(attack.poison.name, attack.poison.options)}"
    return " | ".join(parts)


def _with_numbers(name: str, options: Mapping[str, object]) -> str:
    known = ((key, number(value)) for key, value in options.items())
    told = [f"{key} {value:g}" for key, value in known if value is not None]
    return name + f" ({', '.join(told)})" * bool(told)


def distances_in(record: RoundRecord) -> dict[int, float]:
    """Each accepted client's distance to the aggregate, over the median client's."""
    found = {k: one.distance for k, one in record.clients.items() if one.distance is not None}
    typical = median(found.values()) if found else 0.0
    return {client: distance / typical for client, distance in found.items()} if typical else {}


def _client_facts(records: Sequence[RoundRecord], leads: str) -> list[ClientFacts]:
    weights: dict[int, list[float]] = {}
    fair: dict[int, list[float]] = {}
    far, dropped = _collect(records, distances_in), _collect(records, lambda one: one.dropped)
    low: Counter[int] = Counter()
    reasons: dict[int, Counter[str]] = {}
    own: dict[int, Figures] = {}
    for record in records:
        asked, shares = record.asked, record.shares
        own |= record.client_eval
        for client in asked:
            fair.setdefault(client, []).append(1 / len(asked))
            if client in record.refused:
                reasons.setdefault(client, Counter())[record.refused[client]] += 1
            if client in shares or (client in record.refused and (shares or not record.clients)):
                weights.setdefault(client, []).append(shares.get(client, 0.0))
            low[client] += client in shares and shares[client] < LOW / len(asked)
    return [
        ClientFacts(
            client=client,
            rounds_asked=len(fair.get(client, [])),
            mean_weight=_mean(weights.get(client, [])),
            fair_share=_mean(fair.get(client, [])),
            times_low=low[client],
            times_dropped=int(sum(dropped[client])) if client in dropped else None,
            far=_mean(far.get(client, [])),
            times_refused=reasons[client].total() if client in reasons else 0,
            reason=reasons[client].most_common(1)[0][0] if client in reasons else None,
            own_figure=own.get(client, {}).get(leads),
        )
        for client in sorted(fair.keys() | own.keys())
    ]


def _collect(
    records: Sequence[RoundRecord], read: Callable[[RoundRecord], Mapping[int, float]]
) -> dict[int, list[float]]:
    """What a reading of each record says of a client, over the records that say anything."""
    found: dict[int, list[float]] = {}
    for record in records:
        for client, value in read(record).items():
            found.setdefault(client, []).append(value)
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
