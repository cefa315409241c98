"""The vote on a step: the median of the clients' own loss changes, and what follows from it.

It is the one place where numbers that clients report can stop a step. Of n votes, f of them lies
and f under half, the median lies between two honest ones, whatever the lies are: between the
honest votes' quantiles (n/2 - f) / (n - f) and (n/2) / (n - f), of ten with three attackers 2/7
and 5/7. A step that harms fewer honest clients than that passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedtune.recipe import Recipe
from fedtune.records.lines import Decision, Jury, JuryTry, RoundRecord
from fedtune.round.defence.candidate import decided


def byzantine_voters(recipe: Recipe) -> int:
    """How many of the whole federation may vote anything; 0 where there is no vote."""
    vote, federation = recipe.defence.vote, recipe.federation
    if vote is None:
        return 0
    return vote.byzantine_voters(
        recipe.aggregator.f,
        num_clients=federation.num_clients,
        sample_size=federation.sample_size,
    )


@dataclass(frozen=True)
class Votes:
    """What came of asking for votes on one candidate.

    Attributes:
        changes: Loss on the candidate less loss on the last accepted anchor, of each client that
            counts.
        not_counted: Why the others do not count.
    """

    changes: Mapping[int, float]
    not_counted: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Tally:
    """One candidate's votes, counted.

    Attributes:
        scale: The share of the round's aggregate that made the candidate.
        votes: As they came.
        median: None where nobody's vote counts.
        decision: ``no decision`` with fewer than 2f + 1 votes: the step stands.
    """

    scale: float
    votes: Votes
    median: float | None
    decision: Decision

    def as_record(self) -> JuryTry:
        """As it stands in metrics.jsonl."""
        return JuryTry(
            scale=self.scale,
            median=self.median,
            counted=len(self.votes.changes),
            changes=dict(sorted(self.votes.changes.items())),
            not_counted=dict(sorted(self.votes.not_counted.items())),
            undone=self.decision == "undone",
        )


def count(votes: Votes, *, scale: float, f: int, tolerance: float) -> Tally:
    """Count the votes on a candidate: a step is undone by a median above the tolerance.

    Args:
        votes: One of each client at most.
        scale: Of the aggregate.
        f: Clients of the whole federation that may vote anything.
        tolerance: At least 0. A median of exactly so much passes.
    """
    middle = median(list(votes.changes.values())) if votes.changes else None
    if middle is None or len(votes.changes) < 2 * f + 1:
        return Tally(scale, votes, middle, "no decision")
    return Tally(scale, votes, middle, "undone" if middle > tolerance else "accepted")


def median(values: Sequence[float]) -> float:
    """The middle one; of an even count the mean of the two in the middle."""
    ordered = sorted(values)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return low if low == high else low / 2 + high / 2


def record_of(tallies: Sequence[Tally], recipe: Recipe) -> Jury:
    """What a round's record says of its vote: every try, and what was decided of the last."""
    assert recipe.defence.vote is not None
    f = byzantine_voters(recipe)
    return Jury(
        tries=[tally.as_record() for tally in tallies],
        decided=decided(tallies),
        f=f,
        needed=2 * f + 1,
        tolerance=recipe.defence.vote.tolerance,
    )


def undone_rounds(records: Sequence[RoundRecord]) -> int:
    """How many rounds were undone up to the newest record that tells."""
    told = (each.undone_rounds for each in reversed(records))
    return next((count for count in told if count is not None), 0)
