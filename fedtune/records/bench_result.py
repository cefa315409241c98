"""What comes of a cell of a bench, as its own file and as a line of results.jsonl."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
)

from fedtune.records.lines import Number

# done: at least one seed is. diverged: its loss is no finite number, or it broke off when it was
# worse than untrained; stopped: it broke off; crashed: it is no result, and is run again; refused:
# the rule refuses these counts; skipped: the attack has no meaning here; missing: not run yet.
# A cell of several seeds is called by the first of these that one of them is.
Status = Literal["done", "diverged", "stopped", "crashed", "refused", "skipped", "missing"]
STATUSES: tuple[Status, ...] = get_args(Status)
Count = Annotated[int, Field(ge=0, strict=True)]


class Part(BaseModel):
    """Read without keys that are not known: a later fedtune may write more."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)


class ClientStanding(Part):
    """How one client fared over the rounds of a run.

    Attributes:
        attacker: Whether it was a simulated one.
        asked: Rounds in whose sample it was.
        dropped: Rounds in which its good reply was dropped; None where the rule gives no weights.
        refused: Rounds in which it sent no good reply.
        reason: The last of its refusals.
        weight: The mean over the rounds that asked it of its share against a fair one; None where
            the rule gives no weights.
    """

    attacker: bool = Field(validation_alias=AliasChoices("attacker", "liar"))
    asked: Count = 0
    dropped: Count | None = None
    refused: Count = 0
    reason: str = ""
    weight: Number = None

    @property
    def gives_weights(self) -> bool:
        """Whether the rule says how much the client counted."""
        return self.dropped is not None and self.weight is not None


class OwnLoss(Part):
    """An honest client's loss on its own held-out rows; None where it gave none."""

    before: Number = None
    after: Number = None


class ClientLoss(Part):
    """A client, and its loss on its own held-out rows at the end."""

    client: Count
    loss: float


class Backdoor(Part):
    """Success before and after; ``curve``: round, success, and the same without the trigger."""

    before: Number = None
    after: Number = None
    curve: list[tuple[Count, Number, Number]] = Field(default_factory=list)


class Outcome(Part):
    """What came of a cell's run, as its own result.json has it.

    Attributes:
        base: Held-out loss before training.
        loss: The same at the end; None where it is no finite number.
        curve: Round and held-out loss.
        own: Each honest client's own losses.
        worst_client: The honest client with the largest loss on its own rows.
        code: The hash of the code that ran.
        file: Of a recording.
    """

    status: Status = "done"
    message: str = ""
    base: Number = None
    loss: Number = None
    curve: list[tuple[Count, Number]] = Field(default_factory=list)
    own: dict[int, OwnLoss] = Field(default_factory=dict)
    worst_client: ClientLoss | None = None
    mean_client: Number = None
    backdoor: Backdoor | None = None
    clients: dict[int, ClientStanding] = Field(default_factory=dict)
    client_names: list[str] = Field(default_factory=list)
    seconds: float = 0.0
    code: str | None = None
    machine: str | None = None
    file: str | None = None

    def name_of(self, client: int) -> str:
        """What a client is called beside its number; empty if nothing."""
        return self.client_names[client] if client < len(self.client_names) else ""


class Line(Outcome):
    """A line of results.jsonl: a cell, what came of it, and the command that repeats it."""

    cell: str = ""
    level: str = "training"
    attack: str
    defence: str
    fraction: float
    num_attackers: Count = 0
    num_clients: Count = 0
    f: Count = 0
    seed: int
    goal: str | None = None
    command: str = ""
