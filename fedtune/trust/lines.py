"""What the lines of a record must satisfy under their own recipe; it takes no reply to see."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from fedtune.recipe import Recipe
from fedtune.records.best import is_exhausted
from fedtune.records.lines import is_dropped
from fedtune.records.signed_chain import Line
from fedtune.round.aggregation.terms import f_of_the_rest
from fedtune.round.roster import sample_clients
from fedtune.round.screening.screen import printable
from fedtune.trust.finding import Finding
from fedtune.trust.void import void_tries


def contradictions(lines: Sequence[Line], recipe: Recipe) -> Iterator[Finding]:
    """What of a record cannot be, a line each.

    Args:
        lines: In their order, nothing broken in them.
        recipe: That of the run.
    """
    rounds, last = recipe.federation.num_rounds, lines[-1].round if lines else 0
    if lines and lines[-1].stopped_early:
        yield from _ends_early(lines, recipe)
    elif last < rounds:
        yield Finding(
            f"the record ends with round {last} of {rounds}: its end is cut off, or the run "
            f"stopped there or is not over"
        )
    elif last > rounds:
        yield Finding(f"the record has a round {last}: its recipe has {rounds}")
    for before, line in pairwise(lines):
        told = f"round {line.round}"
        if None not in (before.next_anchor, line.anchor) and before.next_anchor != line.anchor:
            yield Finding(f"{told}: began from another anchor than round {before.round} led to")
        if line.measured_again:
            yield Finding(f"{told}: its line was lost; what it said of clients is not known")
        else:
            yield from (Finding(printable(f"{told}: {why}")) for why in _in_a_round(line, recipe))


def _ends_early(lines: Sequence[Line], recipe: Recipe) -> Iterator[Finding]:
    last = lines[-1].round
    if not is_exhausted(lines, recipe.evaluation):
        yield Finding(f"the record ends early with round {last}: by its recipe the run goes on")


def _in_a_round(line: Line, recipe: Recipe) -> Iterator[str]:
    clients, refused = set(line.clients), set(line.refused)
    sampled = sample_clients(recipe, round_=line.round)
    if line.sampled != sampled:
        yield f"clients {line.sampled} were asked: by seed and recipe it is {sampled}"
    for client in sorted(clients & refused):
        yield f"client {client} is both counted and refused"
    for client in sorted(set(sampled) - clients - refused):
        yield f"client {client} was asked, and nothing is said of it"
    for client in sorted((clients | refused) - set(sampled)):
        yield f"client {client} was not asked, and is counted or refused"
    once_refused = refused.union(*line.refused_before)
    for client in sorted(set(line.proven_faulty) - once_refused):
        yield f"client {client} has proven faulty, and is not refused"
    if not clients <= set(sampled):
        return
    if line.f is not None:
        f = f_of_the_rest(recipe.aggregator.f, line.proven_faulty, clients)
        if line.f != f:
            yield f"the rule was run with f={line.f}: need f={f}"
        if found := recipe.aggregator.objection(sorted(clients), f):
            yield f"the rule was run on replies on which it is not defined: {found}"
    if line.schema_version > 1:  # older lines were written by another definition
        for client, facts in line.clients.items():
            if facts.dropped != is_dropped(facts.weight, len(clients)):
                word = {True: "dropped", False: "not dropped", None: "of no weight"}[facts.dropped]
                yield f"client {client} is called {word} at a weight of {facts.weight}"
    yield from _weights(line, recipe)
    yield from void_tries(line, recipe)


def _weights(line: Line, recipe: Recipe) -> Iterator[str]:
    """A mean's weights are the recipe's alone; all others take the replies to tell."""
    weights = {client: facts.weight for client, facts in line.clients.items()}
    for client, weight in weights.items():
        if weight is not None and not math.isfinite(weight):
            yield f"client {client} has a weight that is not finite"
    section = recipe.aggregator
    if section.name != "mean" or section.mixing or None in weights.values() or not weights:
        return
    if recipe.defence.suspicion is not None:
        return
    shares = section.client_weights or [1.0] * recipe.federation.num_clients
    whole = sum(shares[client] for client in weights)
    for client, weight in weights.items():
        assert weight is not None
        if not math.isclose(weight, need := shares[client] / whole, rel_tol=1e-6, abs_tol=1e-12):
            yield f"client {client} has a weight of {weight:.6g}: by the recipe it is {need:.6g}"
