"""Which of the adapter's tensors a round trains and sends: both factors, or one of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import Tensor

from fedtune.adapters.layout import Layout

Factor = Literal["a", "b"]

# An embedding's LoRA begins the other way round: PEFT sets its A to zero and draws its B.
_DRAWN = {"lora_A", "lora_embedding_B"}
_ZERO = {"lora_B", "lora_embedding_A"}


@dataclass(frozen=True)
class Part:
    """The tensors of one kind of round. What is in no factor (``modules_to_save``) is in each.

    With one factor fixed, averaging the other averages the products BA.

    Attributes:
        name: ``b`` is the factor that begins at zero, ``a`` the one that is drawn.
        whole: The adapter's layout.

    Source:
        Sun et al. 2024 (FFA-LoRA: A as it was drawn), https://arxiv.org/abs/2403.12313;
        Chen et al. 2025 (RoLoRA: alternating), https://arxiv.org/abs/2502.01755
    """

    name: Literal["both", "a", "b"]
    whole: Layout

    @classmethod
    def of_round(cls, whole: Layout, train: str, round_: int) -> Part:
        """The part of a round, counted from 1, under the recipe's ``lora.train``.

        ``alternate`` begins with B: where B is zero, A has no gradient.
        """
        if train == "both":
            return cls("both", whole)
        return cls("b" if train == "b_only" or round_ % 2 else "a", whole)

    @cached_property
    def layout(self) -> Layout:
        """The part's own layout, in the order of the whole one."""
        return self.whole.select([name for name, _ in self.whole.shapes if self.holds(name)])

    def holds(self, name: str) -> bool:
        """Whether a tensor is in it, by PEFT's name on disk or in a model."""
        return self.name == "both" or factor_of(name) in {self.name, None}

    def take(self, row: Tensor) -> Tensor:
        """Copy the part's columns out of a whole row, shape (d,)."""
        tensors = self.whole.unflatten(row)
        return self.layout.flatten({name: tensors[name] for name, _ in self.layout.shapes})

    def put(self, columns: Tensor, row: Tensor) -> Tensor:
        """Copy a whole row, shape (d,), with the part's columns replaced."""
        replaced = row.clone()
        tensors = self.whole.unflatten(replaced)
        for name, values in self.layout.unflatten(columns).items():
            tensors[name].copy_(values)
        return replaced


def factor_of(name: str) -> Factor | None:
    """Which factor a tensor of an adapter is; None if it is trained whole."""
    words = set(name.split("."))
    if words & _DRAWN:
        return "a"
    return "b" if words & _ZERO else None
