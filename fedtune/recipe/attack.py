"""The attack section: who lies and how, in a simulation."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from fedtune.recipe.errors import nearest
from fedtune.recipe.section import Named


class Poison(Named):
    """What liars do to their rows or rewards, before an attack on updates."""

    name: str

    @model_validator(mode="after")
    def _poison_is_known(self) -> Poison:
        from attacks import ATTACKS

        known = [name for name, attack in ATTACKS.items() if attack.level in {"data", "reward"}]
        if self.name not in known:
            raise ValueError(
                f"needs an attack on data or rewards: got {self.name!r}; "
                f"{nearest(self.name, known)}"
            )
        self.refuse_misspelt(ATTACKS[self.name].options)
        ATTACKS[self.name].check_options(self.options)
        return self


class Attack(Named):
    """Who lies and how: simulation only. The rule never sees this section."""

    name: str
    num_attackers: int = Field(ge=0, le=10_000)
    knowledge: Literal["own", "fellows", "all"] | None = Field(
        None, description="whose honest updates a liar sees; default: the attack's strongest"
    )
    poison: Poison | None = Field(
        None, description="an attack on data or rewards; the liars' own updates come of it"
    )

    @field_validator("poison", mode="before")
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
        return self

    @property
    def data_attack(self) -> tuple[str, dict[str, Any]] | None:
        """The attack on the liars' data and its options: the poison, or the attack itself."""
        return self._at_level("data")

    @property
    def reward_attack(self) -> tuple[str, dict[str, Any]] | None:
        """The attack on the liars' rewards and its options: the poison, or the attack itself."""
        return self._at_level("reward")

    def _at_level(self, level: str) -> tuple[str, dict[str, Any]] | None:
        from attacks import ATTACKS

        named = self if self.poison is None else self.poison
        return (named.name, named.options) if ATTACKS[named.name].level == level else None
