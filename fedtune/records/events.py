"""What the server tells an onlooker while it runs. Nothing here moves the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RunStarted:
    """The clients have introduced themselves, and the base was measured (or a run goes on)."""

    history: list[dict[str, Any]]


@dataclass(frozen=True)
class RoundStarted:
    """The anchor went out."""

    round: int
    attempt: int
    clients: list[int]


@dataclass(frozen=True)
class Replied:
    """A client's reply arrived, not yet screened."""

    round: int
    client: int
    upload_bytes: int
    train_loss: float | None


@dataclass(frozen=True)
class Refused:
    """A client's reply, or its silence, does not count."""

    round: int
    client: int
    reason: str


@dataclass(frozen=True)
class Ignored:
    """Something that a client sent was not looked at; whether its reply counts is another thing."""

    round: int
    client: int
    reason: str


@dataclass(frozen=True)
class RoundFinished:
    """The anchor was stepped, measured and saved; ``record`` is the line in metrics.jsonl."""

    record: dict[str, Any] = field(repr=False)


Event = RunStarted | RoundStarted | Replied | Refused | Ignored | RoundFinished
Observer = Callable[[Event], None]


def ignore(_: Event) -> None:
    """Watch nothing."""


class RunStoppedError(RuntimeError):
    """The run cannot go on. Its last checkpoint is valid, and the text says what to do.

    ``resumable`` is False where going on from there would only fail again.
    """

    def __init__(self, reason: str, *, resumable: bool = True) -> None:
        super().__init__(reason)
        self.resumable = resumable


class AttackFailedError(RunStoppedError):
    """The simulated lie could not be told: it says nothing of the defence."""
