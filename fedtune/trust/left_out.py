"""What a line of a record has to say, so that leaving it out explains nothing away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedtune.recipe import Recipe
from fedtune.records.signed_chain import Line
from fedtune.trust.binding import Bound
from fedtune.trust.finding import Finding


def left_out(lines: Sequence[Line], bound: Bound, recipe: Recipe) -> Iterator[Finding]:
    """What a record does not say, a line each; a record of an older fedtune says less.

    Args:
        lines: In their order, nothing broken in them.
        bound: What its manifest binds.
        recipe: That of the run.
    """
    if bound.recipe is None:
        return
    lower = sorted(set(recipe.lora.client_ranks or ()) - {recipe.lora.r})
    dense = recipe.aggregator.combined_by == "dense"  # which gives no client a weight
    facts = ("reply",) if dense else ("reply", "weight")
    for line in lines:
        if not line.measured_again:  # which is said to be no evidence
            told = f"round {line.round}: it does not say"
            yield from (Finding(f"{told} {what}") for what in _of_a_line(line, lower, facts))
            if line.round and line.try_number is None and recipe.federation.commit_then_reveal:
                yield Finding(f"{told} try")


def _of_a_line(line: Line, lower: Sequence[int], facts: Sequence[str]) -> Iterator[str]:
    if line.next_anchor is None:
        yield "next_anchor"
    if line.round == 0:
        return
    for name in ("anchor", "f", "sampled"):
        if getattr(line, name) is None:
            yield name
    for rank in lower:
        if rank not in line.anchors:
            yield f"the anchor of rank {rank}"
    for client, said in line.clients.items():
        for name in facts:
            if getattr(said, name) is None:
                yield f"{name} of client {client}"
