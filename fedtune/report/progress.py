"""Where a run stands, from its events: plain state, no screen."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from fedtune.records.events import (
    Event,
    Ignored,
    Refused,
    Replied,
    RoundFinished,
    RoundStarted,
    RunStarted,
)
from fedtune.records.lines import RoundRecord
from fedtune.report.figures import leading

KEPT_REFUSALS = 5

Mark = Literal["waiting", "replied", "refused"]


class Progress:
    """The state of a run as its events tell it."""

    def __init__(self, num_rounds: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.num_rounds = num_rounds
        self.records: list[RoundRecord] = []
        self.begun = False
        self.round = 0
        self.attempt = 0
        self.clients: dict[int, Mark] = {}
        self.losses: dict[int, float] = {}
        self.refusals: deque[Refused | Ignored] = deque(maxlen=KEPT_REFUSALS)
        self.upload_bytes = 0
        self.download_bytes = 0
        self._clock = clock
        self._started = clock()
        self._round_started: float | None = None

    def take(self, event: Event) -> None:
        """Move on by one event."""
        match event:
            case RunStarted():
                self.begun = True
                self.records = list(event.history)
                self.round = self.done
                self._count_bytes()
            case RoundStarted():
                self._open_round(event)
            case Replied():
                if event.client in self.clients:
                    self.clients[event.client] = "replied"
                self.upload_bytes += event.upload_bytes
                if event.train_loss is not None:
                    self.losses[event.client] = event.train_loss
            case Refused():
                if event.client in self.clients:
                    self.clients[event.client] = "refused"
                self._note_refusal(event)
            case Ignored():
                self._note_refusal(event)
            case RoundFinished():
                self.records.append(event.record)
                self._round_started = None
                self._count_bytes()

    @property
    def done(self) -> int:
        """Rounds that are finished, those before a resume included."""
        return max((record.round for record in self.records), default=0)

    @property
    def leads(self) -> str:
        """The figure that is shown of each evaluation, loss or reward."""
        return next((leading(each.eval) for each in self.records if each.eval), "loss")

    @property
    def evals(self) -> list[float | None]:
        """The held-out losses, or rewards, measured so far, the base's first."""
        leads = self.leads
        return [each.eval.get(leads) for each in self.records if each.eval is not None]

    @property
    def phase(self) -> str:
        """What the run does now, in a few words."""
        if not self.begun:
            return "loading, measuring the base"
        if self.done >= self.num_rounds:
            return "all rounds done"
        if self.clients and not self.count("waiting"):
            return "aggregating, measuring"
        return f"training, try {self.attempt + 1}" if self.attempt else "training"

    def count(self, mark: Mark) -> int:
        """Clients of the round that stand so."""
        return sum(own == mark for own in self.clients.values())

    def elapsed_s(self) -> float:
        """Seconds since this process began to watch."""
        return self._clock() - self._started

    def left_s(self) -> float | None:
        """Seconds left: rounds like the median one, this round by its replies; None at first."""
        spent = 0.0 if self._round_started is None else self._clock() - self._round_started
        answered = len(self.clients) - self.count("waiting")
        by_replies = spent * len(self.clients) / answered if answered else 0.0
        whole = [record.round_s for record in self.records if record.round_s is not None]
        usual = statistics.median(whole) if whole else by_replies
        rounds_left = self.num_rounds - self.done
        if rounds_left <= 0:
            return 0.0
        if not usual:
            return None
        if self._round_started is None:
            return usual * rounds_left
        return usual * (rounds_left - 1) + max(0.0, max(usual, by_replies) - spent)

    def _open_round(self, event: RoundStarted) -> None:
        if event.attempt == 0 or self._round_started is None:
            self._round_started = self._clock()
        self.round, self.attempt = event.round, event.attempt
        self.clients = dict.fromkeys(event.clients, "waiting")
        self.losses = {}

    def _note_refusal(self, event: Refused | Ignored) -> None:
        # An absent client is refused anew in every round: its newest line replaces the older.
        for older in [*self.refusals]:
            if (older.client, older.reason) == (event.client, event.reason):
                self.refusals.remove(older)
        self.refusals.append(event)

    def _count_bytes(self) -> None:
        # The record knows the round's exact size; until it comes, the replies are counted.
        self.upload_bytes = sum(record.upload_bytes for record in self.records)
        self.download_bytes = sum(record.download_bytes for record in self.records)
