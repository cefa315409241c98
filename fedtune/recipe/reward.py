"""What a completion is worth under GRPO: rewards by name, each between two bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Literal, get_args

from pydantic import Field

from fedtune.recipe.section import Section


class Reward(Section):
    """What all rewards have; each is a number from 0 to 1, times its weight.

    A function of TRL's own signature has no bounds.
    """

    weight: float = Field(1.0, gt=-100.0, lt=100.0, description="what it counts for in the sum")


class LengthReward(Reward):
    """1 at so many words, falling to 0 at none and at twice as many."""

    name: Literal["length"] = Field(description="names this reward")
    words: int = Field(12, ge=1, le=10_000, description="how many are best")


class FormatReward(Reward):
    """The share that holds of: how it begins, how it ends, one line, no word thrice in a row."""

    name: Literal["format"] = Field(description="names this reward")
    begins: str = Field("", max_length=200, description="empty: a capital letter")
    ends: str = Field(".", max_length=200, description="the last of the text, white space aside")


class ContainsReward(Reward):
    """1 if a text is in the completion."""

    name: Literal["contains"] = Field(description="names this reward")
    text: str = Field(min_length=1, max_length=1000, description="what to look for")


class AnswerReward(Reward):
    """1 if the completion, white space and case aside, is what a column of the row says."""

    name: Literal["exact_answer"] = Field(description="names this reward")
    column: str = Field("answer", min_length=1, max_length=200, description="of the data")


class DocsReward(Reward):
    """The share of what can be checked of a docstring's first sentence, given a signature."""

    name: Literal["python_docs"] = Field(description="names this reward")


class ModelReward(Reward):
    """What a reward model says, as a probability against 0: a run of `task: reward`."""

    name: Literal["reward_model"] = Field(description="names this reward")
    adapter: str = Field(min_length=1, max_length=4096, description="a run's folder, or a PEFT one")


class EntryPointReward(Reward):
    """A function of one's own, or one written for TRL, installed as an entry point.

    The group is ``fedtune.rewards``. It takes (prompt, completion, row), or what TRL hands over.
    """

    name: Literal["entry_point"] = Field(description="names this reward")
    entry: str = Field(min_length=1, max_length=200, description="its name in the group")


GROUP = "fedtune.rewards"  # of the entry points
AnyReward = Annotated[
    LengthReward
    | FormatReward
    | ContainsReward
    | AnswerReward
    | DocsReward
    | ModelReward
    | EntryPointReward,
    Field(discriminator="name"),
]
REWARDS: dict[str, type[Reward]] = {
    get_args(section.model_fields["name"].annotation)[0]: section
    for section in get_args(get_args(AnyReward)[0])
}


def names_of(rewards: Iterable[AnyReward]) -> list[str]:
    """What rewards are called in figures: by name, numbered from the second of one name on."""
    seen: Counter[str] = Counter()
    names = []
    for section in rewards:
        seen[section.name] += 1
        again = seen[section.name]
        names.append(section.name if again == 1 else f"{section.name}_{again}")
    return names
