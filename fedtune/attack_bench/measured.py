"""What a run's records say of a cell: losses, the worst honest client, who was dropped."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]
NOT_FINITE = "the held-out loss is no finite number"


def measured(records: Sequence[Record], liars: Collection[int]) -> dict[str, Any]:
    """The figures of a finished run.

    Args:
        records: The lines of its metrics.jsonl, round 0 first.
        liars: Who lied.

    Returns:
        ``base``, ``loss``, ``curve``, ``own``, ``worst_client``, ``mean_client``, ``backdoor``,
        ``clients``, as results.jsonl has them.
    """
    evals = [(record["round"], record["eval"]) for record in records if "eval" in record]
    (_, before), (_, after) = evals[0], evals[-1]
    own = _own(records, liars)
    honest = {int(key): each["after"] for key, each in own.items() if each["after"] is not None}
    worst = max(honest, key=honest.__getitem__, default=None)
    return {
        "base": before["loss"],
        "loss": after["loss"],
        "curve": [[round_, figures["loss"]] for round_, figures in evals],
        "own": own,
        "worst_client": None if worst is None else {"client": worst, "loss": honest[worst]},
        "mean_client": sum(honest.values()) / len(honest) if honest else None,
        "backdoor": _backdoor(evals),
        "clients": standing(records, liars),
    }


def _own(records: Sequence[Record], liars: Collection[int]) -> dict[str, dict[str, Any]]:
    """Each honest client's loss on its own held-out rows, of the base and at the end.

    None where it gave none: of the base where no one asked, at the end where it is no finite
    number any more.
    """
    first: Record = next((each for each in records if "client_eval_before" in each), {})
    before = first.get("client_eval_before") or {}
    after = records[-1].get("client_eval") or {}
    honest = sorted({int(key) for key in (*before, *after)} - set(liars))
    return {
        str(client): {
            when: figures.get(str(client), {}).get("loss")
            for when, figures in (("before", before), ("after", after))
        }
        for client in honest
        if after  # a run that broke off has asked no one
    }


def _backdoor(evals: Sequence[tuple[int, Record]]) -> dict[str, Any] | None:
    """Success before and after; ``curve``: round, success, and the same without the trigger."""
    success, without = "backdoor_success", "backdoor_untriggered"
    (_, before), (_, after) = evals[0], evals[-1]
    if after.get(success) is None:
        return None
    return {
        "before": before.get(success),
        "after": after[success],
        "curve": [[at, figures.get(success), figures.get(without)] for at, figures in evals],
    }


def standing(records: Iterable[Record], liars: Collection[int]) -> dict[str, dict[str, Any]]:
    """How each client fared over the rounds.

    Args:
        records: Of rounds that were stepped; others are left out.
        liars: Who lied.

    Returns:
        By client: ``liar``; in how many rounds it was ``asked``, ``dropped`` (a good reply that
        weighed nothing; None where the rule gives no weights) and ``refused``; the last ``reason``;
        and ``weight``, the mean over the rounds that asked it of its share against a fair one (1:
        as much as everyone; refused: 0), None where the rule gives no weights.
    """
    clients: dict[int, dict[str, Any]] = {}
    shares: dict[int, list[float | None]] = {}
    for record in records:
        for client in record.get("sampled", ()):
            facts = clients.setdefault(
                client,
                {"liar": client in liars, "asked": 0, "dropped": 0, "refused": 0, "reason": ""},
            )
            facts["asked"] += 1
            if (reason := record["refused"].get(str(client))) is not None:
                facts["refused"] += 1
                facts["reason"] = reason
                shares.setdefault(client, []).append(0.0)
                continue
            own = record["clients"].get(str(client), {})
            dropped = own.get("dropped")
            known = None not in (dropped, facts["dropped"])
            facts["dropped"] = facts["dropped"] + dropped if known else None
            weight = own.get("weight")
            fair = None if weight is None else weight * len(record["sampled"])
            shares.setdefault(client, []).append(fair)
    return {
        str(client): facts | {"weight": _mean(shares[client])}
        for client, facts in sorted(clients.items())
    }


def _mean(shares: Sequence[float | None]) -> float | None:
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if len(known) == len(shares) else None
