"""The attack section: the simulated attackers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from fedtune.recipe.defaults import resolve
from fedtune.recipe.errors import nearest
from fedtune.recipe.section import Named, Section

POISONS = {"data", "training", "reward"}
"""Levels of attacks on what an attacker trains on or for."""


class Search(Section):
    """How hard the attackers look for the worst that the server's rule lets through."""

    evaluations: int = Field(300, ge=1, le=1_000_000, description="trials of the rule in a round")
    restarts: int = Field(3, ge=1, le=1000, description="starts from which the search goes on")


class Poison(Named):
    """What attackers do to their rows, training or rewards, before an attack on updates."""

    name: str = Field(description="an attack on data, training or rewards")

    @model_validator(mode="after")
    def _poison_is_known(self) -> Poison:
        from attacks import ATTACKS

        known = [name for name, attack in ATTACKS.items() if attack.level in POISONS]
        if self.name not in known:
            raise ValueError(
                f"needs an attack on data, training or rewards: got {self.name!r}; "
                f"{nearest(self.name, known)}"
            )
        self.refuse_misspelt(ATTACKS[self.name].options)
        ATTACKS[self.name].check_options(self.options)
        return self


class Attack(Named):
    """The simulated attackers; the aggregation rule never sees this section."""

    name: str = Field(description="one of `fedtune list attacks`")
    num_attackers: int = Field(
        ge=0, le=10_000, description="how many clients attack; the seed says which"
    )
    knowledge: Literal["own", "fellows", "all"] | None = Field(
        None, description="whose honest updates an attacker sees; default: the most it can use"
    )
    poison: Poison | None = Field(
        None,
        description="an attack on data, training or rewards that makes the attackers' own updates",
    )
    votes: Literal["honest", "rise", "fall", "against"] = Field(
        "fall",
        description="defence.vote: what attackers vote: their true loss change, that every step "
        "does harm, that every step does good, or the opposite of their true change",
    )

    rounds: Literal["every", "first", "last"] | list[Annotated[int, Field(ge=1)]] = Field(
        "every", description="of an attack on updates: when it is on; numbers count from 1"
    )
    between: Literal["mean", "own"] = Field(
        "mean",
        description="what is sent in the other rounds: the mean of what is seen, the poison's "
        "training going on where the attack learns from it; or the own row, trained honestly",
    )
    search: Search | None = Field(
        None, description="let the attack's numbers be searched for against the run's own rule"
    )

    @field_validator("poison", mode="before", json_schema_input_type=str | Poison | None)
    @classmethod
    def _name_alone(cls, value: Any) -> Any:  # noqa: ANN401  pydantic hands over raw input
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _attack_is_known(self) -> Attack:
        from attacks import ATTACKS

        if self.name not in ATTACKS:
            raise ValueError(f"no attack {self.name!r}; {nearest(self.name, ATTACKS)}")
        attack = ATTACKS[self.name]
        if self.knowledge is not None and self.knowledge not in attack.knowledge:
            raise ValueError(
                f"{self.name} has no use for knowledge {self.knowledge!r}; "
                f"it takes {', '.join(attack.knowledge)}"
            )
        if self.poison is not None and attack.level != "update":
            raise ValueError(
                f"poison needs an attack on updates beside it: got {self.name}, of level "
                f"{attack.level!r}; name an attack on updates, or write {self.poison.name} as name"
            )
        self.refuse_misspelt(attack.options)
        attack.check_options(self.options)
        self._check_timing(attack.level)
        if self.search is not None and not attack.searches:
            able = ", ".join(name for name, each in ATTACKS.items() if each.searches)
            raise ValueError(
                f"{self.name} has no numbers to search for: search is for {able}; leave it out"
            )
        if self.search is not None and self.knowledge not in {None, "all"}:
            raise ValueError(
                f"search needs attackers who know all: got {self.knowledge}; leave one of them out"
            )
        if attack.knowledge:
            resolve(self, {"knowledge": attack.knowledge[-1]})
        return self

    def _check_timing(self, level: str) -> None:
        if isinstance(self.rounds, list) and sorted(set(self.rounds)) != self.rounds:
            raise ValueError(f"rounds must ascend, none twice: got {self.rounds}")
        if self.rounds == []:
            raise ValueError("rounds needs one at least: got none; write num_attackers: 0 instead")
        if level != "update" and (self.rounds != "every" or self.between != "mean"):
            raise ValueError(
                f"rounds and between are of attacks on updates: got {self.name}, of level "
                f"{level!r}; name an attack on updates and write {self.name} as its poison"
            )

    def is_on(self, round_: int, num_rounds: int) -> bool:
        """Whether the attack is on in a round, counted from 1, of so many."""
        if isinstance(self.rounds, list):
            return round_ in self.rounds
        return {"every": True, "first": round_ == 1, "last": round_ == num_rounds}[self.rounds]

    @property
    def data_attack(self) -> tuple[str, dict[str, Any]] | None:
        """The attack on the attackers' data and its options: the poison, or the attack itself."""
        return self._at_level("data")

    @property
    def training_attack(self) -> tuple[str, dict[str, Any]] | None:
        """The attack on the attackers' training and its options: the poison, or the attack."""
        return self._at_level("training")

    @property
    def reward_attack(self) -> tuple[str, dict[str, Any]] | None:
        """The attack on the attackers' rewards and its options: the poison, or the attack."""
        return self._at_level("reward")

    def _at_level(self, level: str) -> tuple[str, dict[str, Any]] | None:
        from attacks import ATTACKS

        named = self if self.poison is None else self.poison
        return (named.name, named.options) if ATTACKS[named.name].level == level else None
