"""What the server tells an onlooker while it runs. Nothing here moves the model.

An event is also a line of the event log (`event_log`); what is read from there may be a stranger's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ConfigDict
from pydantic.dataclasses import dataclass

from fedtune.records.lines import Bytes, Client, Count, RoundRecord

MAX_REASON = 1000  # signs of a reason that are kept
STRICT = ConfigDict(strict=True)


def _cut(reason: str) -> str:
    return reason[:MAX_REASON]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


Reason = Annotated[str, AfterValidator(_cut)]


@dataclass(frozen=True)
class RunStarted:
    """The clients have introduced themselves, and the base was measured (or a run goes on)."""

    history: list[RoundRecord]


@dataclass(frozen=True, config=STRICT)
class RoundStarted:
    """The anchor went out."""

    round: Count
    attempt: Count
    clients: list[Client]


@dataclass(frozen=True, config=STRICT)
class Replied:
    """A client's reply arrived, not yet screened."""

    round: Count
    client: Client
    upload_bytes: Bytes
    train_loss: Annotated[float | None, AfterValidator(_finite)]


@dataclass(frozen=True, config=STRICT)
class Refused:
    """A client's reply, or its silence, does not count."""

    round: Count
    client: Client
    reason: Reason


@dataclass(frozen=True, config=STRICT)
class Ignored:
    """Something that a client sent was not looked at; whether its reply counts is another thing."""

    round: Count
    client: Client
    reason: Reason


@dataclass(frozen=True)
class RoundFinished:
    """The anchor was stepped, measured and saved; ``record`` is the line in metrics.jsonl."""

    record: RoundRecord = field(repr=False)


RoundEvent = RoundStarted | Replied | Refused | Ignored
Event = RunStarted | RoundEvent | RoundFinished
Observer = Callable[[Event], None]


def ignore(_: Event) -> None:
    """Watch nothing."""


class RunStoppedError(RuntimeError):
    """The run cannot go on. Its last checkpoint is valid, and the text says what to do.

    ``resumable`` is False where going on from there would only fail again; ``traceback`` is the
    file that has it, where something was raised that nobody foresaw.
    """

    def __init__(self, reason: str, *, resumable: bool = True) -> None:
        super().__init__(reason)
        self.resumable = resumable
        self.traceback: Path | None = None


class AttackFailedError(RunStoppedError):
    """The simulated attack could not be executed: there is no result for the defence."""
