"""What a run's records say of a cell: losses, the worst honest client, who was dropped."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from fedtune.records.bench_result import Backdoor, ClientLoss, ClientStanding, Outcome, OwnLoss
from fedtune.records.lines import Figures, RoundRecord

NOT_FINITE = "the held-out loss is no finite number"


def measured(records: Sequence[RoundRecord], attackers: Collection[int]) -> Outcome:
    """The figures of a finished run.

    Args:
        records: Of the run, round 0 first.
        attackers: The simulated ones.
    """
    evals = [(record.round, record.eval) for record in records if record.eval is not None]
    (_, before), (_, after) = evals[0], evals[-1]
    own = _own(records, attackers)
    honest = {client: each.after for client, each in own.items() if each.after is not None}
    worst = max(honest, key=honest.__getitem__, default=None)
    return Outcome(
        base=before["loss"],
        loss=after["loss"],
        curve=[(round_, figures["loss"]) for round_, figures in evals],
        own=own,
        worst_client=None if worst is None else ClientLoss(client=worst, loss=honest[worst]),
        mean_client=sum(honest.values()) / len(honest) if honest else None,
        backdoor=_backdoor(evals),
        clients=standing(records, attackers),
    )


def _own(records: Sequence[RoundRecord], attackers: Collection[int]) -> dict[int, OwnLoss]:
    """Each honest client's loss on its own held-out rows, of the base and at the end.

    None where it gave none: of the base where no one asked, at the end where it is no finite
    number any more.
    """
    before = next((each.client_eval_before for each in records if each.client_eval_before), {})
    after = records[-1].client_eval
    return {
        client: OwnLoss(
            before=before.get(client, {}).get("loss"), after=after.get(client, {}).get("loss")
        )
        for client in sorted({*before, *after} - set(attackers))
        if after  # a run that broke off has asked no one
    }


def _backdoor(evals: Sequence[tuple[int, Figures]]) -> Backdoor | None:
    success, without = "backdoor_success", "backdoor_untriggered"
    (_, before), (_, after) = evals[0], evals[-1]
    if after.get(success) is None:
        return None
    return Backdoor(
        before=before.get(success),
        after=after[success],
        curve=[(at, figures.get(success), figures.get(without)) for at, figures in evals],
    )


def standing(
    records: Iterable[RoundRecord], attackers: Collection[int]
) -> dict[int, ClientStanding]:
    """How each client fared over the rounds.

    Args:
        records: Of rounds that were stepped; others are left out.
        attackers: The simulated ones.
    """
    seen: dict[int, list[tuple[bool | None, float | None]]] = {}
    reasons: dict[int, list[str]] = {}
    for record in records:
        dropped, sampled = record.dropped, record.sampled or ()
        for client in sampled:
            if client in record.refused:
                reasons.setdefault(client, []).append(record.refused[client])
                seen.setdefault(client, []).append((False, 0.0))
                continue
            own = record.clients.get(client)
            weight = None if own is None or own.weight is None else own.weight * len(sampled)
            seen.setdefault(client, []).append((dropped.get(client), weight))
    return {
        client: ClientStanding(
            attacker=client in attackers,
            asked=len(rounds),
            dropped=_sum([dropped for dropped, _ in rounds]),
            refused=len(reasons.get(client, ())),
            reason=reasons.get(client, [""])[-1],
            weight=_mean([weight for _, weight in rounds]),
        )
        for client, rounds in sorted(seen.items())
    }


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _mean(shares: Sequence[float | None]) -> float | None:
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if len(known) == len(shares) else None
