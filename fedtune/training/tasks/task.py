"""What a task is: which trainer of TRL's runs it, on which rows, and what is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from fedtune.training.plan import Plan

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments

Known = dict[int, tuple[float, ...]]
"""What a reference has said of rows, by their place."""
OptimizerState = dict[int, dict[str, torch.Tensor]]
Asked = tuple[str, str, Mapping[str, Any]]
"""(prompt, completion, row): what a reward is asked about."""


@dataclass(frozen=True, eq=False)
class Priced:
    """A reward, ready to be asked.

    Attributes:
        name: As the recipe has it, numbered where it stands there twice.
        weight: What it counts for.
        score: (prompt, completion, row) -> a number from 0 to 1.
        batch: The same for many at once, where that is cheaper.
        digest: Says what it is made of beside its section: equal digests, equal scores.
        in_lists: A function of TRL's own signature that is called in the place of both; its scores
            have no bounds, and are None where it says nothing of a completion.
    """

    name: str
    weight: float
    score: Callable[[str, str, Mapping[str, Any]], float]
    batch: Callable[[Sequence[Asked]], list[float]] | None = None
    digest: str = ""
    in_lists: Callable[..., list[float | None]] | None = None

    def score_all(self, asked: Sequence[Asked]) -> list[float]:
        """The scores of many completions, in their order."""
        if self.batch is not None:
            return self.batch(asked)
        return [self.score(*each) for each in asked]


@dataclass(frozen=True, eq=False)
class Learner:
    """What learns: a model that holds some adapter, with what the recipe says of its training.

    Attributes:
        model: A PEFT model.
        tokenizer: The base's.
        plan: What the recipe says of training.
        reference: The adapter that a policy is held against, by PEFT's names; empty where the
            task knows none.
        rewards: What a completion is worth; empty where the task asks for none.
    """

    model: Any
    tokenizer: Any
    plan: Plan
    reference: Mapping[str, Tensor] = field(default_factory=dict)
    rewards: Sequence[Priced] = ()


@dataclass(frozen=True)
class Figures:
    """What the model makes of held-out rows.

    Attributes:
        loss: What training lowers; its unit is the task's.
        others: Further figures by name.
    """

    loss: float
    others: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, float]:
        """The figures by name, as metrics.jsonl holds them."""
        return {"loss": self.loss, **self.others}


@dataclass(frozen=True)
class Steps:
    """What local steps leave beside the adapter.

    Attributes:
        loss: Mean over the steps.
        optimizer_state: By number of the trained tensor.
        figures: What the trainer said of its steps, by TRL's names, each a mean over the steps.
    """

    loss: float
    optimizer_state: OptimizerState
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """A held-out prompt, what is right, and what the model makes of it."""

    prompt: str
    truth: str
    completion: str


@dataclass(frozen=True)
class Task:
    """One objective.

    Attributes:
        name: In a recipe.
        peft_type: PEFT's name of the kind of model.
        config_name: TRL's config, whose keys ``train:`` takes.
        columns: What a row needs, the first set that fits; other columns are not looked at.
        owned: Keys of the config that fedtune sets, and what says it instead.
        prepare: Rows, as TRL tokenises them at any length; once per client.
        fit: Which prepared rows their length keeps, these rows as it leaves them, and how many of
            them are cut.
        pack: Rows of a length that fits as a step takes them, several in one perhaps; None: each
            alone.
        refer: What the reference makes of some prepared rows, added to them as columns; None: no
            row needs it.
        rows_per_round: Rows that the local steps of one round consume.
        steps_for: Steps that look at so many rows at least.
        make_trainer: TRL's trainer of prepared rows, for ``steps`` steps under a ``seed``.
        measure: Held-out figures of the model as it stands.
        show: The first held-out rows, and what the model makes of them.
        asks: Whether rows with a prompt are shown as questions (`fedtune.training.questions`)
            instead.
        uses_reference: Whether a policy is held against a reference.
        pairs: Whether a row is two sequences.
        all_columns: Whether whole rows are kept, for rewards to look at.
        bound: What bounds the length of a row, and what to do with it, in an error.
    """

    name: str
    peft_type: Literal["CAUSAL_LM", "SEQ_CLS"]
    config_name: str
    columns: Sequence[frozenset[str]]
    prepare: Callable[[Dataset, Learner], Dataset]
    fit: Callable[[Dataset, Learner], tuple[list[int], Dataset, int]]
    refer: Callable[[Dataset, Sequence[int], Learner, Known], Dataset] | None
    rows_per_round: Callable[[Plan], int]
    steps_for: Callable[[Plan, int], int]
    make_trainer: Callable[..., Trainer]
    measure: Callable[..., Figures]
    show: Callable[..., list[Shown]]
    owned: Mapping[str, str] = field(default_factory=dict)
    pack: Callable[[Dataset, Learner], Dataset] | None = None
    uses_reference: bool = False
    asks: bool = False
    pairs: bool = False
    all_columns: bool = False
    bound: tuple[str, str] = ("train.max_length", "raise it")

    @property
    def config(self) -> type[TrainingArguments]:
        """TRL's class of the recipe's train keys; to import TRL takes seconds."""
        import trl

        found: type[TrainingArguments] = getattr(trl, self.config_name)
        return found
