"""Whether a folder's matrix may be written over: never a part over the whole in silence."""

from __future__ import annotations

import json
from collections.abc import Iterator

from fedtune.attack_bench.schema import Bench
from fedtune.attack_bench.store import Store
from fedtune.attack_bench.summary import describe, shared_by_all
from fedtune.records.bench_summary import Summary, read_summary

NAMED = 4


def refuse_to_lose(store: Store, bench: Bench) -> None:
    """Refuse a matrix that lacks something of the one whose results the folder shows.

    results.jsonl, summary and page hold the matrix last asked for, whole. So one that holds all of
    the last one may follow it: seed 0 first, then all seeds.

    Args:
        store: The folder.
        bench: What is to run there.

    Raises:
        ValueError: If what is asked for would take something of the last matrix off the page.
    """
    try:
        summary = read_summary(json.loads(store.summary.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return  # none was written yet, or it is damaged: there is nothing to lose
    lost = list(_lost(summary, bench))
    if not lost:
        return
    more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
    raise ValueError(
        f"{store.path} shows a matrix of which this one lacks: {', '.join(lost[:NAMED])}{more}; "
        f"write this one elsewhere with --out OUT, or remove {store.summary} to give that one up "
        f"(its cells stay)"
    )


def _lost(summary: Summary, bench: Bench) -> Iterator[str]:
    """What the last matrix has and this one has not, or otherwise."""
    shared = shared_by_all(bench)
    yield from (f"another {key}" for key in shared if not _same(getattr(summary, key), shared[key]))
    yield from (f"seed {seed}" for seed in summary.seeds if seed not in bench.seeds)
    for table in summary.tables:
        if table.fraction not in bench.fractions:
            yield f"fraction {table.fraction:g}"
        elif table.f != (table.num_attackers if bench.f is None else bench.f):
            yield f"f = {table.f}"
    first = summary.tables[0]
    for attack in first.attacks:
        if attack.label not in bench.attacks:
            yield f"attack {attack.label}"
        elif not _same(bench.attacks[attack.label], {"name": attack.name, **attack.options}):
            yield f"another attack {attack.label}"
    for defence in first.defences:
        if defence.label not in bench.defences:
            yield f"defence {defence.label}"
        elif defence.what != describe(bench, defence.label):
            yield f"another defence {defence.label}"
        elif defence.num_seeds > len(bench.seeds_of(defence.label)):
            yield f"seeds of {defence.label}"


def _same(shown: object, asked: object) -> bool:
    """As JSON has them; what an older summary does not say is no difference."""
    if shown in (None, ""):
        return True
    return json.dumps(shown, sort_keys=True) == json.dumps(asked, sort_keys=True)
