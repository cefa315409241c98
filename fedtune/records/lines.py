"""One line of metrics.jsonl: the base, then each round; every writer and reader goes by it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from fedtune.plain import plain

SCHEMA_VERSION = 2  # of a line; a line of version 1 does not say so
NOTHING = 1e-6  # of an equal share: an attacker at 3e38 weighs 5e-42 in a geometric median

Count = Annotated[int, Field(ge=0, lt=2**31)]
Bytes = Annotated[int, Field(ge=0, lt=2**63)]
Client = Annotated[int, Field(ge=0, lt=10**9)]
# Keys of JSON are text, which no strict number takes; `signed_chain` looks at their spelling.
ByClient = Annotated[int, Field(strict=False, ge=0, lt=10**9)]
Rank = Annotated[int, Field(strict=False, ge=1, lt=2**31)]
Decision = Literal["accepted", "undone", "no decision"]


def _finite(value: float | None) -> float | None:
    """JSON has null for what is not finite."""
    return value if value is not None and math.isfinite(value) else None


Number = Annotated[float | None, AfterValidator(_finite)]
Figures = dict[str, Number]


def is_dropped(weight: float | None, num_clients: int) -> bool | None:
    """Whether a good reply had next to no part in the aggregate of so many good replies.

    Less than a millionth of an equal share is none. A rule on columns uses nearly everyone at some
    coordinate, and drops no one. None where the rule gives no weights.
    """
    return None if weight is None else abs(weight) < NOTHING / num_clients


class Section(BaseModel):
    """Types are strict. An unknown key is ignored where a line is read, refused where written."""

    model_config = ConfigDict(strict=True, validate_assignment=True, populate_by_name=True)

    def note(self, **facts: Any) -> None:  # noqa: ANN401  each is checked by its own type
        """Write facts by name.

        Raises:
            ValueError: If one has another type, or no place here.
        """
        for name, value in facts.items():
            setattr(self, name, value)


class ClientRecord(Section):
    """A client whose reply counts.

    Attributes:
        reply: The hash of all that it sent.
        train_loss: Its own word, as are all figures in ``said``.
        weight: Its share of the aggregate; None where the rule gives no weights.
        dropped: As `is_dropped` has it of the weight.
        norm: Of its update.
        distance: Of its update to the aggregate.
    """

    train_loss: Number = None
    reply: str | None = None
    said: Figures = Field(default_factory=dict)
    weight: Number = None
    dropped: bool | None = None
    norm: Number = None
    distance: Number = None


class VoidTry(Section):
    """A try of a round whose replies were shown and were too few; ``clients`` as they were then."""

    number: Count = Field(alias="try")
    reason: str | None = None
    clients: dict[ByClient, ClientRecord] = Field(default_factory=dict)


class JuryTry(Section):
    """What one jury said of one candidate, made of the share ``scale`` of the aggregate.

    Attributes:
        change: Loss on the candidate less loss before, on the server's own data.
        median: The same over the clients' votes; None without any.
        counted: Votes.
        changes: Each client's vote.
        not_counted: Why the other clients' votes do not count.
    """

    scale: float
    undone: bool = False
    change: Number = None
    median: Number = None
    counted: Count | None = None
    changes: dict[ByClient, float] = Field(default_factory=dict)
    not_counted: dict[ByClient, str] = Field(default_factory=dict)


class Jury(Section):
    """All that one jury said of a round's step; ``f`` and ``needed`` are those of a vote."""

    tries: list[JuryTry] = Field(default_factory=list)
    decided: Decision | None = None
    tolerance: Number = None
    f: Count | None = None
    needed: Count | None = None


class RoundRecord(Section):
    """One line. Seconds end in ``_s``; hashes are SHA-256 in hex; clients go by number.

    Attributes:
        schema_version: Of the line.
        round: 0 is the base before training.
        previous: The hash of the line before, of the first line that of the manifest.
        trained: Which of the factors, ``both``, ``a`` or ``b``.
        attempt: Times that clients were asked again.
        try_number: In commit-then-reveal the try that counts.
        sampled: The clients drawn, whether or not they replied.
        refused: Why a client's reply, or its silence, does not count.
        refused_before: The same of each attempt that was not enough.
        proven_faulty: Clients whose replies prove them faulty.
        clients: Those whose replies count.
        void: In commit-then-reveal the tries that do not count.
        repeated: Second replies, which are ignored.
        f: How many Byzantine clients the rule assumed among those left.
        anchor: The hash of what the round began from; ``anchors`` has those of lower ranks.
        next_anchor: The hash of what it led to.
        revision: Of the checkpoint.
        discarded: Share of the products' energy that the rank could not hold.
        discarded_of_change: The same of the round's own change.
        trial: The verdict of the server's own data on the step; ``vote`` that of the clients.
        undone_rounds: Up to here. So are ``asked_rounds`` and ``dropped_rounds`` of each client.
        eval: Held-out figures.
        client_eval: Those that clients report, on their own data; ``client_eval_before`` the same
            before round 1.
        best_round: Up to here, by the figure that the recipe watches; None where it watches none.
        stopped_early: Whether the run ends with this round, for want of a better one.
        measured_again: Of a line that was lost: it holds what could be measured again, no more.
    """

    schema_version: Count = 1
    round: Count
    previous: str | None = None
    trained: str | None = None
    attempt: Count = 0
    try_number: Count | None = Field(None, alias="try")
    sampled: list[Client] | None = None
    refused: dict[ByClient, str] = Field(default_factory=dict)
    refused_before: list[dict[ByClient, str]] = Field(default_factory=list)
    proven_faulty: list[Client] = Field(default_factory=list)
    clients: dict[ByClient, ClientRecord] = Field(default_factory=dict)
    void: list[VoidTry] = Field(default_factory=list)
    repeated: dict[ByClient, Count] = Field(default_factory=dict)
    f: Count | None = None
    skipped_mixings: list[str] = Field(default_factory=list)
    anchor: str | None = None
    anchors: dict[Rank, str] = Field(default_factory=dict)
    next_anchor: str | None = None
    revision: str | None = None
    upload_bytes: Bytes = 0
    download_bytes: Bytes = 0
    train_s: Number = None
    aggregate_s: Number = None
    trial_s: Number = None
    round_s: Number = None
    aggregate_norm: Number = None
    discarded: Number = None
    discarded_of_change: Number = None
    server_train_loss: Number = None
    trial: Jury | None = None
    vote: Jury | None = None
    undone_rounds: Count | None = None
    asked_rounds: dict[ByClient, Count] = Field(default_factory=dict)
    dropped_rounds: dict[ByClient, Count] = Field(default_factory=dict)
    eval: Figures | None = None
    client_eval: dict[ByClient, Figures] = Field(default_factory=dict)
    client_eval_before: dict[ByClient, Figures] = Field(default_factory=dict)
    evaluation_refused: dict[ByClient, str] = Field(default_factory=dict)
    best_round: Count | None = None
    stopped_early: bool = False
    measured_again: bool = False

    @property
    def asked(self) -> list[int]:
        """The clients of the round, whether or not they replied."""
        return sorted({*(self.sampled or ()), *self.clients, *self.refused})

    @property
    def dropped(self) -> dict[int, bool]:
        """Who had no part in the round, by `is_dropped` or because the reply was refused.

        Clients of a rule that gives no weights are in it only if they were refused.
        """
        told = {k: is_dropped(one.weight, len(self.clients)) for k, one in self.clients.items()}
        known = {client: dropped for client, dropped in told.items() if dropped is not None}
        return known | dict.fromkeys(self.refused, True)

    @property
    def shares(self) -> dict[int, float]:
        """Each counted client's share of what the clients brought into the step.

        These are the rule's weights over their sum: centered clipping leaves a part of the whole to
        its own memory, which is no client's.
        """
        weights = {k: one.weight for k, one in self.clients.items() if one.weight is not None}
        total = sum(weights.values())
        return {client: each / total if total else 0.0 for client, each in weights.items()}

    def refusals(self) -> Iterator[tuple[int, str]]:
        """(client, reason) of all replies that do not count, of earlier attempts too."""
        for section in (*self.refused_before, self.refused, self.evaluation_refused):
            yield from section.items()


class UnreadableLineError(ValueError):
    """A line of metrics.jsonl that is no record: what it needs, in a few words."""


Kind = TypeVar("Kind", bound=RoundRecord)


def read_record(line: bytes | str, *, written: bool = False) -> RoundRecord:
    """Read a line; arguments and errors are those of `read_as`."""
    return read_as(RoundRecord, line, written=written)


def read_as(kind: type[Kind], line: bytes | str, *, written: bool = False) -> Kind:
    """Read a line, which may be a stranger's.

    Args:
        kind: Of record.
        line: JSON, of this version or an older one.
        written: By this process: then an unknown key is an error.

    Raises:
        UnreadableLineError: If it is none.
    """
    extra: Literal["forbid", "ignore"] = "forbid" if written else "ignore"
    try:
        record = kind.model_validate_json(line, extra=extra, by_alias=True, by_name=False)
    except ValidationError as error:
        raise UnreadableLineError(_need(error)) from None
    if record.schema_version > SCHEMA_VERSION:
        raise UnreadableLineError(
            f"schema_version up to {SCHEMA_VERSION}, got {record.schema_version}: a newer fedtune "
            f"wrote it; read it with that"
        )
    return record


def _need(error: ValidationError) -> str:
    """What is wrong first, in a line; the path may be a stranger's words."""
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return "JSON"
    where = ".".join(plain(str(part))[:40] for part in first["loc"][:4])
    if first["type"] == "missing":
        return f"{where}: it is not there"
    if first["type"] == "extra_forbidden":
        return f"known keys alone: got {where}"
    told = first["msg"].removeprefix("Input should be ")
    return f"{where}: {told}" if where else told
