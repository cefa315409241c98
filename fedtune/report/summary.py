"""From the lines of metrics.jsonl to the facts that the table and the picture show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from fedtune.report.text import number
from fedtune.report.undone import undone_in_words

if TYPE_CHECKING:  # it brings torch
    from fedtune.recipe import Recipe

PICTURE, PAGE = "curves.png", "report.html"
LOW = 0.5  # of the fair share: below it a client counts as down-weighted

Record = Mapping[str, Any]


@dataclass(frozen=True)
class ClientFacts:
    """One client over all recorded rounds.

    Attributes:
        client: Its number.
        rounds_asked: Rounds in whose sample it was.
        mean_weight: Mean share over those rounds; a refused reply weighs nothing.
        fair_share: Mean of 1/n over the same rounds, n being the clients asked.
        times_low: Accepted replies that weighed less than half of 1/n.
        times_dropped: Rounds in which it had no part at all, its weight exactly 0 or its reply
            refused; None where no record tells.
        far: Mean of its distance to the aggregate over the median client's in the same round.
        times_refused: Replies that were refused.
        reason: The commonest reason of these; a stranger's words.
        own_loss: Its own held-out loss at the end, as it reports it.
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
    own_loss: object


@dataclass(frozen=True)
class RunFacts:
    """A run as far as its records go.

    ``discarded`` is the mean share of the products' energy, in a round, that the adapter's rank
    could not hold, and ``discarded_of_change`` of the round's own change; None on factors.
    ``undone`` says what was undone by whom; None where nobody judged a step.
    """

    rounds: int
    base: Record
    final: Record
    curve: list[tuple[int, object]]
    upload_bytes: float
    download_bytes: float
    train_s: float
    aggregate_s: float
    round_s: float
    discarded: float | None
    discarded_of_change: float | None
    clients: list[ClientFacts]
    undone: str | None = None


def summarise(records: Sequence[Record]) -> RunFacts:
    """Add up a run's records. What is missing from them is left out, never guessed."""
    records = well_formed(records)
    measured = [record for record in records if isinstance(record.get("eval"), Mapping)]
    base = measured[0] if measured and round_of(measured[0]) == 0 else {}
    rounds = max(map(round_of, records), default=0)
    return RunFacts(
        rounds=rounds,
        base=base.get("eval", {}),
        final=measured[-1]["eval"] if measured else {},
        curve=[(round_of(record), record["eval"].get("loss")) for record in measured],
        upload_bytes=_total(records, "upload_bytes"),
        download_bytes=_total(records, "download_bytes"),
        train_s=_total(records, "train_s"),
        aggregate_s=_total(records, "aggregate_s"),
        round_s=_total(records, "round_s"),
        discarded=_average(records, "discarded"),
        discarded_of_change=_average(records, "discarded_of_change"),
        clients=_client_facts(records),
        undone=undone_in_words(records, rounds),
    )


def describe(recipe: Recipe) -> str:
    """A recipe in one line of ASCII: mixing, rule, f, geometry, outer optimizer, attack."""
    section = recipe.aggregator
    rule = " + ".join([*section.mixing_names, section.name])
    geometry = ", on products" * (section.geometry == "product")
    parts = [f"{rule}, f={section.f}{geometry}", recipe.outer.name]
    attack = recipe.attack
    if attack is not None and attack.num_attackers:
        liars = f"{attack.num_attackers} of {recipe.federation.num_clients}"
        parts.append(f"{liars} lie: {_with_numbers(attack.name, attack.options)}")
        if attack.poison is not None:
            parts[-1] += f" on {_with_numbers(attack.poison.name, attack.poison.options)}"
    return " | ".join(parts)


def _with_numbers(name: str, options: Mapping[str, object]) -> str:
    known = ((key, number(value)) for key, value in options.items())
    told = [f"{key} {value:g}" for key, value in known if value is not None]
    return name + f" ({', '.join(told)})" * bool(told)


def well_formed(records: Sequence[Record]) -> list[Record]:
    """The records that are mappings with a round."""
    return [
        record
        for record in records
        if isinstance(record, Mapping) and number(record.get("round")) is not None
    ]


def round_of(record: Record) -> int:
    """The round that a record is of."""
    return int(record["round"])


def by_client(section: object) -> dict[int, Any]:
    """A section of a record whose keys are client numbers, as text or not; others are left out."""
    if not isinstance(section, Mapping):
        return {}
    return {int(key): value for key, value in section.items() if str(key).isdecimal()}


def asked_in(record: Record) -> list[int]:
    """The clients of a round, whether or not they replied."""
    sampled = record.get("sampled")
    found = set(sampled) if isinstance(sampled, Sequence) else set()
    found |= by_client(record.get("clients")).keys() | by_client(record.get("refused")).keys()
    return sorted(client for client in found if isinstance(client, int))


def shares_in(record: Record) -> dict[int, float]:
    """Each accepted client's share of what the clients brought into the step.

    These are the rule's weights over their sum: centered clipping leaves a part of the whole to
    its own memory, which is no client's.
    """
    entries = by_client(record.get("clients"))
    weights = {
        client: weight
        for client, entry in entries.items()
        if isinstance(entry, Mapping) and (weight := number(entry.get("weight"))) is not None
    }
    total = sum(weights.values())
    return {client: weight / total if total else 0.0 for client, weight in weights.items()}


def distances_in(record: Record) -> dict[int, float]:
    """Each accepted client's distance to the aggregate, over the median client's."""
    entries = by_client(record.get("clients"))
    found = {
        client: distance
        for client, entry in entries.items()
        if isinstance(entry, Mapping) and (distance := number(entry.get("distance"))) is not None
    }
    typical = median(found.values()) if found else 0.0
    return {client: distance / typical for client, distance in found.items()} if typical else {}


def dropped_in(record: Record) -> dict[int, bool]:
    """Who had no part in a round: the weight is exactly 0, or the reply was refused."""
    dropped = dict.fromkeys(by_client(record.get("refused")), True)
    for client, entry in by_client(record.get("clients")).items():
        weight = number(entry.get("weight")) if isinstance(entry, Mapping) else None
        if weight is not None:
            dropped[client] = weight == 0
    return dropped


def _average(records: Sequence[Record], key: str) -> float | None:
    return _mean([value for record in records if (value := number(record.get(key))) is not None])


def _total(records: Sequence[Record], key: str) -> float:
    return sum(number(record.get(key)) or 0.0 for record in records)


def _client_facts(records: Sequence[Record]) -> list[ClientFacts]:
    weights: dict[int, list[float]] = {}
    fair: dict[int, list[float]] = {}
    far, dropped = _collect(records, distances_in), _collect(records, dropped_in)
    low: Counter[int] = Counter()
    reasons: dict[int, Counter[str]] = {}
    own: dict[int, Any] = {}
    for record in records:
        asked, shares = asked_in(record), shares_in(record)
        refused = by_client(record.get("refused"))
        own |= by_client(record.get("client_eval"))
        gives_weights = bool(shares) or not by_client(record.get("clients"))
        for client in asked:
            fair.setdefault(client, []).append(1 / len(asked))
            if client in refused:
                reasons.setdefault(client, Counter())[str(refused[client])] += 1
            if gives_weights and (client in shares or client in refused):
                weights.setdefault(client, []).append(shares.get(client, 0.0))
            low[client] += client in shares and shares[client] < LOW / len(asked)
    return [
        ClientFacts(
            client=client,
            rounds_asked=len(fair.get(client, [])),
            mean_weight=_mean(weights.get(client)),
            fair_share=_mean(fair.get(client)),
            times_low=low[client],
            times_dropped=int(sum(dropped[client])) if client in dropped else None,
            far=_mean(far.get(client)),
            times_refused=sum(reasons.get(client, Counter()).values()),
            reason=reasons[client].most_common(1)[0][0] if client in reasons else None,
            own_loss=own[client].get("loss") if isinstance(own.get(client), Mapping) else None,
        )
        for client in sorted(fair.keys() | own.keys())
    ]


def _collect(
    records: Sequence[Record], read: Callable[[Record], Mapping[int, float]]
) -> dict[int, list[float]]:
    """What a reading of each record says of a client, over the records that say anything."""
    found: dict[int, list[float]] = {}
    for record in records:
        for client, value in read(record).items():
            found.setdefault(client, []).append(value)
    return found


def _mean(values: Sequence[float] | None) -> float | None:
    return sum(values) / len(values) if values else None
