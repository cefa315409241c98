"""What the server does with rows of its own: an update to compare with, a trial of each step.

The trial is of what the rule has made of *all* replies, never of one reply: a single honest update
is mostly the noise of its own rows, and a lie without noise does better on any rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedtune.messages.transport import Transport
from fedtune.recipe import Recipe
from fedtune.records.lines import Decision, Jury, JuryTry, RoundRecord
from fedtune.round.defence.candidate import decided, loss_rise
from fedtune.training.client_round import Trained

TrainOwn = Callable[[Tensor, int], Trained]
LossOf = Callable[[Tensor], float]


def own_update(
    recipe: Recipe, train: TrainOwn | None, anchor: Tensor, record: RoundRecord
) -> Tensor | None:
    """The server's own update, for a rule that compares with it; None for all others.

    Args:
        recipe: The run's.
        train: Local steps of the server's own from an anchor, in a round.
        anchor: Of the round.
        record: Of the round; the training loss is added to it.
    """
    if not recipe.aggregator.takes_reference or train is None:
        return None
    trained = train(anchor, record.round)
    record.server_train_loss = trained.train_loss
    return trained.delta


@dataclass(frozen=True)
class Tried:
    """One candidate's trial.

    Attributes:
        scale: The share of the round's aggregate that made the candidate.
        change: Loss on the candidate less loss on the last accepted anchor.
        decision: ``undone`` where that is above the tolerance.
    """

    scale: float
    change: float
    decision: Decision

    def as_record(self) -> JuryTry:
        """As it stands in metrics.jsonl."""
        return JuryTry(scale=self.scale, change=self.change, undone=self.decision == "undone")


@dataclass(eq=False)
class Trial:
    """The jury of the server's own rows.

    Attributes:
        tolerance: By how much the loss may rise; of exactly so much it may.
        loss_of: Loss of a whole adapter, a float32 row at the full rank, on the server's rows.
    """

    tolerance: float
    loss_of: LossOf
    _known: list[tuple[Tensor, float]] = field(default_factory=list, repr=False)

    def judge(
        self,
        candidate: Tensor,
        accepted: Tensor,
        *,
        scale: float,
        transport: Transport,
        record: RoundRecord,
    ) -> Tried:
        """Try a candidate. An accepted one is what the next is compared with: one pass a round.

        Args:
            candidate: The anchor to try, a float32 row of the whole layout.
            accepted: The last accepted one.
            scale: Of the aggregate.
            transport: Not used; nobody is asked.
            record: The round's; the seconds that it took are added to it.
        """
        started = time.monotonic()
        before = self._loss(accepted)
        after = self._loss(candidate)
        self._known = [(accepted, before), (candidate, after)]
        took = time.monotonic() - started
        record.trial_s = round((record.trial_s or 0.0) + took, 3)
        change = loss_rise(after, before)
        return Tried(scale, change, "undone" if change > self.tolerance else "accepted")

    def record_of(self, verdicts: Sequence[Tried]) -> Jury:
        """What a round's record says: every try, and what was decided of the last."""
        return Jury(
            tries=[tried.as_record() for tried in verdicts],
            decided=decided(verdicts),
            tolerance=self.tolerance,
        )

    def _loss(self, row: Tensor) -> float:
        for known, loss in self._known:
            if torch.equal(known, row):
                return loss
        return self.loss_of(row)
