"""What goes into a client-round and what comes out, in plain words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from fedtune.training.formats import kept_columns
from fedtune.training.tasks.task import Priced, Task

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Poison:
    """What a Byzantine client does to what it trains on, or for.

    Attributes:
        key: Says which poison it is: equal keys, equal rows and rewards.
        spoil: The rows that it trains on, from its own; None: these.
        mislead: What its steps minimise, from the loss of a batch; None: the loss.
        reprice: What its completions are worth to it, from the recipe's rewards; None: those.
    """

    key: str
    spoil: Callable[[list[dict[str, object]]], list[dict[str, object]]] | None = None
    mislead: Callable[[Tensor], Tensor] | None = None
    reprice: Callable[[Sequence[Priced]], Sequence[Priced]] | None = None


@dataclass(frozen=True)
class Trained:
    """What a client-round leaves: the delta, and what the client has to say of it.

    Attributes:
        delta: Of the round's part alone, a float32 row.
        train_loss: Mean over the steps.
        figures: What else the trainer said of its steps.
    """

    delta: Tensor
    train_loss: float
    figures: Mapping[str, float] = field(default_factory=dict)


def looked_at(rows: Dataset, task: Task) -> Dataset:
    """The rows with the columns alone that training looks at; all, where rewards may."""
    return rows if task.all_columns else rows.select_columns(kept_columns(rows, task))
