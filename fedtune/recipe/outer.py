"""The outer section: how the server steps the anchor by a round's aggregate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fedtune.recipe.defaults import OUTER, resolve
from fedtune.recipe.section import Section


class Outer(Section):
    """The optimizer that steps the anchor with minus the aggregate as its gradient."""

    name: Literal["fedavg", "nesterov", "adam"] = Field(
        "fedavg", description="which: fedavg takes the aggregate as it is"
    )
    lr: float | None = Field(
        None,
        gt=0,
        le=100,
        description="step size; fedavg: 1, nesterov: 0.7, adam: 1e-3 unless said",
    )
    momentum: float | None = Field(None, ge=0, lt=1, description="of nesterov; 0.5 unless said")
    betas: tuple[float, float] | None = Field(None, description="of adam; [0.9, 0.99] unless said")
    eps: float | None = Field(None, gt=0, description="of adam; 1e-8 unless said")

    @model_validator(mode="after")
    def _keys_fit(self) -> Outer:
        own = OUTER[self.name]
        given = {
            key for key in ("lr", "momentum", "betas", "eps") if getattr(self, key) is not None
        }
        if foreign := sorted(given - own.keys()):
            raise ValueError(
                f"{self.name} takes no {', '.join(foreign)}; it takes {', '.join(sorted(own))}"
            )
        if self.name == "fedavg" and self.lr not in {None, 1.0}:
            raise ValueError(
                f"fedavg is lr 1: got {self.lr}; name nesterov with momentum 0 instead"
            )
        if self.betas is not None and not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie in [0, 1): got {self.betas}")
        resolve(self, own)
        return self

    @property
    def rates(self) -> tuple[float, float]:
        """Learning rate and momentum; a momentum of 0 where the optimizer has none."""
        assert self.lr is not None  # resolved when it was read
        return self.lr, self.momentum or 0.0
