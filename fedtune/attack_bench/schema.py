"""BENCH.yaml: frozen, typed, bounded; unknown keys are refused with the nearest known one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from attacks import ATTACKS
from fedtune.recipe import RecipeError, find_recipe
from fedtune.recipe.errors import explain, nearest
from fedtune.recipe.reading import read_mapping
from fedtune.recipe.section import Section
from fedtune.recipe.source import lay_over, shipped_benches

NONE, ORACLE, MEAN_OF_ALL = "none", "oracle", "mean of all"
# Honest training on rows poisoned at this rate, by label: what no rule can tell from other data.
FLOORS = {"floor 25 %": 0.25, "floor 50 %": 0.5, "floor 100 %": 1.0}
SHARED = ("attack", "task", "model", "data", "evaluation", "checkpoint", "report_to", "output_dir")
ON_VECTORS = ("aggregator", "defence")
SHARED_KEYS = ("engine", "num_clients", "clients_per_round", "num_rounds", "seed")
# What a bench says of every cell itself: in `set` it would be overwritten.
ITS_OWN = (
    "attack",
    "federation.engine",
    "federation.seed",
    "evaluation.every",
    "evaluation.per_client",
    "evaluation.samples",
    "checkpoint.keep",
    "report_to",
    "output_dir",
)
ITS_OWN_ON_VECTORS = ("outer", "federation.num_rounds")

Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Label = Annotated[str, Field(min_length=1, max_length=80)]
Size = Annotated[float, Field(ge=0.0, le=1e6)]


class Drawn(Section):
    """Honest updates by formula: a common direction, each client's own, and noise.

    Client i's row of round k is ``step |A| (common c + offset o_i + noise e_ik)``, with c, o_i and
    e_ik directions drawn once, of length 1, and |A| the length of the anchor's A.
    """

    num_rounds: int = Field(3, ge=1, le=1000)
    modules: int = Field(2, ge=1, le=64)
    d_out: int = Field(24, ge=1, le=65536)
    d_in: int = Field(16, ge=1, le=65536, description="at least lora.r")
    step: float = Field(0.1, gt=0, le=10)
    common: Size = 1.0
    offset: Size = 0.5
    noise: Size = 0.5


class Recorded(Section):
    """Honest updates of the base recipe, run with the mean and no attacker."""

    num_rounds: int = Field(5, ge=1, le=1000)


class Rounds(Section):
    """Where the honest updates of level vectors come from: exactly one of the two."""

    drawn: Drawn | None = None
    recorded: Recorded | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Rounds:
        if (self.drawn is None) == (self.recorded is None):
            raise ValueError("needs one of drawn: {...} and recorded: {...}; write recorded, say")
        return self

    @property
    def num_rounds(self) -> int:
        """How many rounds there are."""
        source = self.drawn or self.recorded
        assert source is not None
        return source.num_rounds


class ChosenOn(Section):
    """On what the defences and their options were chosen: a note, held apart from the report."""

    seeds: list[Seed] = Field(min_length=1, max_length=31)


class Bench(Section):
    """A matrix of cells on one base recipe."""

    title: str = Field(min_length=1, max_length=200)
    level: Literal["training", "vectors"] = "training"
    base: str = Field("quickstart", min_length=1, description="a recipe's name or file")
    set: dict[str, Any] = Field(default_factory=dict, description="{section.key: value}, laid over")
    fractions: list[Fraction] = Field(min_length=1, max_length=16)
    f: int | None = Field(None, ge=0, le=5000, description="default: the table's attackers")
    seeds: list[Seed] = Field(min_length=1, max_length=31)
    fewer_seeds: dict[Label, int] = Field(
        default_factory=dict, description="{defence: only so many, the first of the seeds}"
    )
    defences: dict[Label, dict[str, Any]] = Field(min_length=1)
    attacks: dict[Label, dict[str, Any]] = Field(min_length=1)
    rounds: Rounds | None = None
    chosen_on: ChosenOn | None = Field(
        None, description="{seeds: [...]}: those on which the defences were chosen; none of `seeds`"
    )

    @field_validator("attacks", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:  # noqa: ANN401  pydantic hands over raw input
        if value == "all":
            value = list(ATTACKS)
        if isinstance(value, list):
            return {str(name): {"name": name} for name in value}
        return value

    @field_validator("defences", mode="before")
    @classmethod
    def _empty_columns(cls, value: Any) -> Any:  # noqa: ANN401  pydantic hands over raw input
        if isinstance(value, dict):
            return {label: {} if column is None else column for label, column in value.items()}
        return value

    @field_validator("rounds", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:  # noqa: ANN401  pydantic hands over raw input
        return {value: {}} if value in ("recorded", "drawn") else value

    @model_validator(mode="after")
    def _fits(self) -> Bench:
        for key in ("fractions", "seeds"):
            if len({*getattr(self, key)}) < len(getattr(self, key)):
                raise ValueError(f"{key}: needs each once; got {getattr(self, key)}")
        if self.level == "vectors" and self.rounds is None:
            raise ValueError("rounds: level vectors needs rounds: recorded, or {drawn: {...}}")
        if self.level == "training" and self.rounds is not None:
            raise ValueError("rounds: of level vectors alone; training has federation.num_rounds")
        if self.chosen_on and (both := sorted({*self.seeds} & {*self.chosen_on.seeds})):
            raise ValueError(
                f"chosen_on.seeds: needs other seeds than those reported; got {both} in both; "
                f"report on seeds that had no part in the choice"
            )
        for label, count in self.fewer_seeds.items():
            if label not in self.defences:
                raise ValueError(
                    f"fewer_seeds.{label}: no such defence; {nearest(label, self.defences)}"
                )
            if count < 1:
                raise ValueError(f"fewer_seeds.{label}: needs a count, at least 1; got {count}")
        _check_set(self.set, self.level)
        for label, attack in self.attacks.items():
            _check_attack(label, attack)
        for label, column in self.defences.items():
            _check_column(label, column, self.level)
        return self

    @property
    def floors(self) -> dict[str, dict[str, Any]]:
        """The attacks of the floor by label; none where no attack plants a backdoor.

        Token, place and target are those of the first attack that poisons with ``trigger``.
        """
        poisons = [found for each in self.attacks.values() if (found := _planting(each))]
        if self.level != "training" or not poisons:
            return {}
        planted = next((each for each in poisons if each["name"] == "trigger"), {})
        shared = {"token", "place", "target"}
        poison = {"name": "trigger"} | {key: planted[key] for key in planted if key in shared}
        return {label: {**poison, "rate": rate} for label, rate in FLOORS.items()}

    def seeds_of(self, defence: str) -> list[int]:
        """The seeds under which a column is run: all, unless ``fewer_seeds`` has it."""
        return self.seeds[: self.fewer_seeds.get(defence)]


def _planting(attack: Mapping[str, Any]) -> dict[str, Any] | None:
    """The part of an attack section that plants a backdoor: itself or its poison; else None."""
    for part in (attack, attack.get("poison")):
        named = {"name": part} if isinstance(part, str) else dict(part or {})
        known = ATTACKS.get(str(named.get("name")))
        if known is not None and known.backdoor is not None:
            return named
    return None


def _check_set(given: Mapping[str, Any], level: str) -> None:
    own = ITS_OWN + (ITS_OWN_ON_VECTORS if level == "vectors" else ())
    for key, value in given.items():
        inner = [f"{key}.{part}" for part in value] if isinstance(value, dict) else []
        for said in (key, *inner):
            if any(said == one or said.startswith(f"{one}.") for one in own):
                raise ValueError(f"set.{said}: the bench sets it; leave it out")


def _check_attack(label: str, attack: Mapping[str, Any]) -> None:
    if label in {NONE, ORACLE, *FLOORS}:
        raise ValueError(f"attacks.{label}: the name of a reference; give it another label")
    name = attack.get("name")
    if name not in ATTACKS:
        raise ValueError(f"attacks.{label}.name: no attack {name!r}; {nearest(str(name), ATTACKS)}")
    if "num_attackers" in attack:
        raise ValueError(
            f"attacks.{label}.num_attackers: fractions say how many attack; leave it out"
        )


def _check_column(label: str, column: Mapping[str, Any], level: str) -> None:
    if label in {ORACLE, MEAN_OF_ALL}:
        raise ValueError(f"defences.{label}: the name of a reference; give it another label")
    for section, value in column.items():
        if not isinstance(value, dict):
            raise ValueError(f"defences.{label}.{section}: needs a section of a recipe: {value!r}")
        keys = [key for key in SHARED_KEYS if section == "federation" and key in value]
        if section in SHARED or keys:
            where = ".".join([section, *keys[:1]])
            raise ValueError(
                f"defences.{label}.{where}: all columns share it; say it in `set`, for all of them"
            )
        if level == "vectors" and section not in ON_VECTORS:
            raise ValueError(
                f"defences.{label}.{section}: level vectors takes given rows and steps by fedavg; "
                f"leave it out, or say it in `set`, for all columns"
            )


def load_bench(name: str, overrides: Iterable[str] = ()) -> Bench:
    """Read a bench by path or name, with ``section.key=value`` overrides laid on top.

    Raises:
        RecipeError: With a line for each thing that is wrong.
    """
    path, shipped = Path(name), shipped_benches()
    if not path.is_file():
        if name not in shipped:
            text = f"{name}: no such file, and no shipped bench; {nearest(name, shipped)}"
            raise RecipeError([text])
        path = shipped[name]
    raw = read_mapping(path)
    base = path.parent / str(raw.get("base"))  # of a bench of one's own: beside it, if it is there
    if base.is_file() and name not in shipped:
        raw["base"] = str(base)
    for override in overrides:
        lay_over(raw, override)
    try:
        bench = Bench.model_validate(raw)
    except ValidationError as error:
        raise explain(error, Bench) from error
    find_recipe(bench.base)
    return bench
