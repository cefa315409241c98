"""Held-out figures of every task: what each is called, and how it is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fedtune.report.text import clean, figure, percent

TERM = "rewards/"  # of a reward by its name
SCORE = "scores/"  # of answers to held-out prompts
MAX_TERMS = 32
Write = Callable[[object], str]


def _count(value: object) -> str:
    return f"{value:.0f}" if isinstance(value, int | float) else "-"


# In the order in which they are shown. TRL's names, where it has one.
FIGURES: Mapping[str, tuple[str, Write]] = {
    "reward": ("reward", figure),
    "loss": ("loss", figure),
    "perplexity": ("perplexity", figure),
    "token_accuracy": ("token accuracy", percent),
    "accuracy": ("preference accuracy", percent),
    "rewards/accuracies": ("preference accuracy", percent),
    "margin": ("margin", figure),
    "rewards/margins": ("margin", figure),
    "mean_reward": ("mean reward", figure),
    "completion_words": ("words of an answer", figure),
    "backdoor_success": ("backdoor success", percent),
    "backdoor_untriggered": ("the same without the trigger", percent),
}
# The figures of a stage that stand for it; of several names the task's own.
STANDING = ("reward", "loss", "accuracy", "rewards/accuracies")
COUNTS: Mapping[str, str] = {"num_tokens": "tokens", "num_pairs": "pairs", "num_prompts": "prompts"}


def shown(figures: Mapping[str, object]) -> list[tuple[str, str, Write]]:
    """The figures that are there, as (label, key, how to write it).

    A loss that is minus a reward is not shown beside it; the terms of the reward are, by name.
    """
    rewarded = leading(figures) == "reward"
    scored = [key for key in figures if key.startswith(SCORE)][:MAX_TERMS]
    scores = [(clean(key.removeprefix(SCORE), limit=40), key, figure) for key in scored]
    known = scores + [
        (label, key, write)
        for key, (label, write) in FIGURES.items()
        if key in figures and not (rewarded and key == "loss")
    ]
    if not rewarded:
        return known
    named = [key for key in figures if key.startswith(TERM) and key not in FIGURES][:MAX_TERMS]
    terms = [(f"reward {clean(key.removeprefix(TERM), limit=40)}", key, figure) for key in named]
    first = len(scores) + 1
    return [*known[:first], *terms, *known[first:]]


def leading(figures: Mapping[str, object]) -> str:
    """The figure by which a run's story is told: ``reward`` of a policy that has one, else loss."""
    return "reward" if "reward" in figures else "loss"


def counted(figures: Mapping[str, object]) -> tuple[str, str]:
    """What the figures are over, and how many: ("tokens", "3055")."""
    for key, label in COUNTS.items():
        if key in figures:
            return label, _count(figures[key])
    return "rows", "-"


def curve_title(leads: str) -> str:
    """What the curve of the leading figure is of."""
    return "Held-out reward, higher is better" if leads == "reward" else "Held-out loss"
