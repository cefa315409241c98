"""The vote section: when the clients' own held-out losses undo a round's step."""

from __future__ import annotations

import math

from pydantic import Field

from fedtune.recipe.section import Section


class Vote(Section):
    """After every round each client with held-out rows votes on the candidate anchor."""

    tolerance: float = Field(
        0.02,
        ge=0,
        le=1e3,
        allow_inf_nan=False,
        description="undo a step when the median vote says that the held-out loss rose by more, "
        "in the units of the task's loss (sft: nats a token)",
    )
    f: int | None = Field(
        None,
        ge=0,
        le=5000,
        description="Byzantine voters of the whole federation; default: aggregator.f scaled from "
        "a round's sample to all clients, rounded up",
    )

    def byzantine_voters(self, f: int, *, num_clients: int, sample_size: int) -> int:
        """How many of all clients may vote anything.

        ``aggregator.f`` counts those of a round's sample; the voters are the whole federation. A
        rule that is told of f in a sample of s assumes a share f / s: of n clients that is
        ceil(f n / s), the same f where everyone is asked in every round.
        """
        return math.ceil(f * num_clients / sample_size) if self.f is None else self.f

    def check(self, f: int, *, num_clients: int, sample_size: int) -> None:
        """Refuse a federation in which no vote could ever decide.

        Raises:
            ValueError: Naming the key, and what to write instead.
        """
        voters_f = self.byzantine_voters(f, num_clients=num_clients, sample_size=sample_size)
        if (needs := 2 * voters_f + 1) > num_clients:
            whose = "" if self.f is not None else f", aggregator.f={f} of {sample_size} scaled up"
            raise ValueError(
                f"defence.vote: needs num_clients >= 2f + 1 = {needs} voters: got {num_clients} "
                f"clients, f={voters_f}{whose}; lower aggregator.f, write defence.vote.f, or "
                f"leave the vote out"
            )
