"""What is measured on held-out rows: figures, scores of answers, and which round was best."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from fedtune.recipe.data import Count
from fedtune.recipe.section import Section

SCORED = "scores/"  # before a score's name in the figures
LOWER_IS_BETTER = frozenset({"loss", "perplexity"})
# Of each task, the figures that have a better and a worse; a test holds them to be measured.
FIGURES = {
    "sft": ("loss", "perplexity", "token_accuracy"),
    "reward": ("loss", "accuracy", "margin"),
    "dpo": ("loss", "rewards/accuracies", "rewards/margins"),
    "grpo": ("reward", "loss"),
}


class ExactMatchScore(Section):
    """The share of answers that are the right one, white space and case aside."""

    name: Literal["exact_match"] = Field(description="the score")

    @property
    def called(self) -> str:
        """In the figures."""
        return self.name


class RougeScore(Section):
    """The F1 of an answer's words against the right one's, from 0 to 1, by `rouge-score`."""

    name: Literal["rouge"] = Field(description="the score")
    kind: Literal["rouge1", "rouge2", "rougeL"] = Field(
        "rougeL", description="single words, pairs of words, or the longest common sequence"
    )

    @property
    def called(self) -> str:
        """In the figures."""
        return self.kind


class EntryPointScore(Section):
    """A function of one's own, installed as an entry point of the group ``fedtune.scores``."""

    name: Literal["entry_point"] = Field(description="the score")
    entry: str = Field(
        min_length=1, max_length=100, pattern=r"^[\w.-]+$", description="its name in the group"
    )

    @property
    def called(self) -> str:
        """In the figures."""
        return self.entry


AnyScore = Annotated[
    ExactMatchScore | RougeScore | EntryPointScore,
    Field(discriminator="name"),
]


class Evaluation(Section):
    """What is measured on held-out rows."""

    every: int = Field(1, ge=1, description="rounds between evaluations; the last is always done")
    max_rows: Count = Field(512, description="held-out rows used, the first of a seeded order")
    per_client: bool = Field(True, description="also each client's own held-out rows, at the end")
    batch_size: int = Field(32, ge=1, le=4096, description="held-out rows measured at a time")
    samples: int = Field(3, ge=0, le=32, description="completions shown before and after")
    max_new_tokens: int = Field(48, ge=1, le=4096, description="of an answer, at most")
    backdoor_rows: Count = Field(64, description="held-out prompts on which a trigger is tried")
    scores: list[AnyScore] = Field(
        default_factory=list,
        max_length=8,
        description="of answers to held-out prompts: exact_match, rouge, entry_point",
    )
    score_rows: Count = Field(64, description="held-out prompts that are answered for the scores")
    watch: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="a held-out figure, such as loss or scores/exact_match: the adapter of the "
        "round in which it was best is kept in adapter_best/",
    )
    stop_after: int | None = Field(
        None, ge=1, le=100_000, description="rounds in which it has not become better; needs watch"
    )

    @field_validator("scores", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:  # noqa: ANN401  pydantic hands over raw input
        if not isinstance(value, list):
            return value
        return [{"name": each} if isinstance(each, str) else each for each in value]

    @model_validator(mode="after")
    def _fits(self) -> Evaluation:
        names = [score.called for score in self.scores]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"scores: each once; got {', '.join(twice)} twice; leave one out")
        if self.stop_after is not None and self.watch is None:
            raise ValueError("stop_after: needs watch, the figure to go by; write watch: loss, say")
        return self

    def check(self, task: str, rewards: Collection[str]) -> None:
        """Refuse scores and figures that the task has not.

        Args:
            task: The recipe's.
            rewards: Names of its rewards.

        Raises:
            ValueError: With what it has.
        """
        if self.scores and task == "reward":
            raise ValueError("evaluation.scores: a reward model gives no answers; leave them out")
        known = [*FIGURES[task], *(f"rewards/{name}" for name in rewards)]
        known += [f"{SCORED}{score.called}" for score in self.scores]
        if self.watch is not None and self.watch not in known:
            raise ValueError(
                f"evaluation.watch: {task} has no figure {self.watch!r}; it has {', '.join(known)}"
            )
