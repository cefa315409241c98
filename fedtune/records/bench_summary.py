"""The summary of a bench that its table and page show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, TypeVar

from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    ValidationError,
    model_validator,
)

from fedtune.plain import plain
from fedtune.records.bench_figures import (
    Curve,
    Floor,
    Least,
    MaybeStat,
    Peak,
    Seed,
    SilencedPair,
)
from fedtune.records.bench_result import Count, Part, Status
from fedtune.records.lines import Number

HOLDS = 0.9  # of the gain: a defence that retains this much holds
FAILS = 0.5  # below it most is lost
STOPPED = 0.1  # a backdoor that succeeds at most this much more often than before is stopped
MAX_SIGNS = 1000  # of a stranger's words
T = TypeVar("T")


class CellSummary(Part):
    """One attack on one defence over its seeds; None where nothing tells.

    Attributes:
        seeds: How many by status.
        retained: (base - loss) / (base - oracle), of the seeds that are done.
        kept: See `rank`.
        least: Of the gain over all rounds and seeds.
        worse_than_base: The seeds that ended worse than begun.
        worst_honest: The honest client with the least share of its oracle's gain.
        behind_best: How much more the best defence of the same attack retained.
        backdoor: Success with the trigger; ``backdoor_net`` less success without it, at the end,
            ``backdoor_most`` the same at most over the rounds; each above the floor.
        without_oracle: Seeds that do not count, for want of an oracle that gained.
    """

    attack: str
    defence: str
    status: Status
    seeds: dict[Status, Count]
    without_oracle: Count = 0
    message: str = ""
    retained: MaybeStat = None
    gain_curves: list[Curve] = Field(default_factory=list)
    least: Least | None = None
    worse_than_base: list[Seed] = Field(default_factory=list)
    worst_honest: Least | None = None
    loss: MaybeStat = None
    behind_best: MaybeStat = None
    worst_client: MaybeStat = None
    oracle_worst_client: MaybeStat = None
    backdoor: MaybeStat = None
    backdoor_before: MaybeStat = None
    backdoor_net: MaybeStat = None
    backdoor_most: MaybeStat = None
    backdoor_peak: Peak | None = None
    above_floor: MaybeStat = None
    most_above_floor: MaybeStat = None
    refused_share: Number = None
    attacker_weight: Number = Field(
        None, validation_alias=AliasChoices("attacker_weight", "liar_weight")
    )
    honest_dropped_share: Number = None
    attackers_dropped_share: Number = Field(
        None, validation_alias=AliasChoices("attackers_dropped_share", "liars_dropped_share")
    )
    curves: list[Curve] = Field(default_factory=list)
    commands: list[str] = Field(default_factory=list)
    kept: Number = None

    @property
    def rank(self) -> float | None:
        """What it counts as beside other cells; minus infinity where a seed diverged.

        The least of the gain kept, a seed that stopped as 0, and of 1 - the excess of a backdoor.
        """
        return -math.inf if self.seeds.get("diverged") else self.kept

    @property
    def of(self) -> int:
        """How many seeds there are."""
        return sum(self.seeds.values())

    @property
    def tested(self) -> bool:
        """Whether it says anything of the defence; a run that broke off or diverged does."""
        return self.status in {"done", "stopped", "diverged"}

    @property
    def broken(self) -> str:
        """How many seeds of several did not end well, in words; empty if all did."""
        ends: tuple[Status, ...] = ("diverged", "stopped")
        told = ((self.seeds.get(status, 0), status) for status in ends)
        return ", ".join(f"{count} of {self.of} {status}" for count, status in told if count)

    @property
    def excess(self) -> float | None:
        """How much more often the target is said with the trigger than without it.

        Where the summary does not say the second: than before training.
        """
        if self.backdoor is None:
            return None
        if self.backdoor_net is not None:
            return round(self.backdoor_net.mean, 9)
        before = 0.0 if self.backdoor_before is None else self.backdoor_before.mean
        return round(self.backdoor.mean - before, 9)  # 0.4 - 0.3 is a little more than 0.1

    @property
    def over_floor(self) -> float | None:
        """How far a backdoor is above the floor: at the end or at most, whichever is more."""
        known = [one.mean for one in (self.above_floor, self.most_above_floor) if one is not None]
        return max(known, default=None)

    @property
    def holds(self) -> bool:
        """Whether the gain is kept, and the backdoor, where there is one, stopped."""
        if self.status != "done" or self.broken or self.retained is None:
            return False
        kept = round(self.retained.mean, 9) >= HOLDS
        return kept and (self.excess is None or self.excess <= STOPPED)


def by_rank(cell: CellSummary) -> float:
    """A key that puts what is not known below all that is."""
    return -math.inf if cell.rank is None else cell.rank


class Worst(Part):
    """The attack under which a defence counts least, and what it counts as there."""

    attack: str
    kept: Number = None
    stopped: bool = False
    diverged: bool = False

    @property
    def rank(self) -> float | None:
        """As a cell's."""
        return -math.inf if self.diverged else self.kept


class AttackSummary(Part):
    """One column: an attack with its options.

    ``searched``: it is optimised anew against each defence; None: the summary does not say.
    """

    label: str
    name: str = ""
    goal: str = "other"
    options: dict[str, Any] = Field(default_factory=dict)
    summary: str = ""
    searched: bool | None = None


class DefenceSummary(Part):
    """One row: its tax with no attacker, its worst case, and what it leaves of honest clients.

    ``f``: where the row assumes another f than its table. ``num_seeds``: of its cells.
    """

    label: str
    what: str = ""
    f: Count | None = None
    num_seeds: Count = 1
    tax: MaybeStat = None
    tax_message: str = ""
    worst: Worst | None = None
    least: Least | None = None
    worst_honest: Least | None = None
    worst_honest_free: Least | None = None
    silenced: SilencedPair = Field(default_factory=SilencedPair)
    commands: list[str] = Field(default_factory=list)

    @property
    def rank(self) -> float | None:
        """What it counts as in its worst case."""
        return None if self.worst is None else self.worst.rank


class TableSummary(Part):
    """All cells at one fraction of attackers."""

    fraction: float = 0.0
    num_attackers: Count
    num_clients: Annotated[int, Field(ge=1, strict=True)]
    f: Count
    base: MaybeStat = None
    oracle: MaybeStat = None
    mean_of_all: MaybeStat = None
    floor: Floor | None = None
    attacks: list[AttackSummary]
    defences: list[DefenceSummary]
    cells: list[CellSummary]

    @model_validator(mode="after")
    def _fits(self) -> TableSummary:
        columns, rows = {one.label for one in self.attacks}, {one.label for one in self.defences}
        if len(columns) < len(self.attacks) or len(rows) < len(self.defences):
            raise ValueError("each label of a table needs to be its only one")
        for cell in self.cells:
            if cell.attack not in columns or cell.defence not in rows:
                raise ValueError(
                    f"a cell needs an attack and a defence of its table: got {cell.attack!r} on "
                    f"{cell.defence!r}"
                )
        return self

    @cached_property
    def grid(self) -> dict[tuple[str, str], CellSummary]:
        """The cells by defence and attack."""
        return {(cell.defence, cell.attack): cell for cell in self.cells}

    @property
    def percent_attackers(self) -> str:
        """The fraction of attackers, in words."""
        return f"{100 * self.num_attackers / self.num_clients:.0f}\u00a0% attackers"


class CellCounts(Part):
    """How many cells have ended, of how many."""

    done: Count | None = None
    of: Count | None = None


class Summary(Part):
    """A bench, done or on its way, as summary.json has it; a table per fraction of attackers."""

    title: str = ""
    notes: list[str] = Field(default_factory=list)
    command: str = ""
    machine: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    seeds: list[Seed] = Field(default_factory=list)
    level: str = ""
    base_recipe: str = ""
    set: dict[str, Any] | None = None
    rounds: dict[str, Any] | None = None
    chosen_on: dict[str, Any] | None = None
    code: Annotated[
        list[str], BeforeValidator(lambda said: [said] if isinstance(said, str) else said)
    ] = Field(default_factory=list)
    code_now: str | None = None
    cells: CellCounts = Field(default_factory=CellCounts)
    seconds: Number = None
    tables: list[TableSummary] = Field(min_length=1)


def read_summary(said: object) -> Summary:
    """Read what a summary.json holds; every word of it may be a stranger's, and is made one line.

    Raises:
        ValueError: If the summary is not one that `fedtune bench` writes.
    """
    try:
        return Summary.model_validate(_plain(said))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        told = first["msg"].removeprefix("Value error, ")
        raise ValueError(
            f"a bench's summary needs {f'{where}: ' if where else ''}{told}; "
            f"write it anew with fedtune bench"
        ) from None


def _plain(said: Any, key: str = "") -> Any:  # noqa: ANN401  as deep as a file goes
    """The same with each text one line that prints; commands are shown as they are."""
    if isinstance(said, Mapping):
        return {_line(str(name)): _plain(each, str(name)) for name, each in said.items()}
    if isinstance(said, list | tuple):
        return [_plain(each, key) for each in said]
    return _line(said) if isinstance(said, str) and not key.startswith("command") else said


def _line(text: str) -> str:
    told = " ".join(plain(text[: 2 * MAX_SIGNS], " ").split())
    return told if len(told) <= MAX_SIGNS else told[: MAX_SIGNS - 3].rstrip() + "..."
