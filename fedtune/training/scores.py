"""How good answers to held-out prompts are: exact match, rouge, or a user's own function."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from fedtune.recipe.evaluation import (
    SCORED,
    AnyScore,
    EntryPointScore,
    ExactMatchScore,
    RougeScore,
)
from fedtune.training.questions import Question, split_row
from fedtune.training.rewards import as_number, installed, plainly

GROUP = "fedtune.scores"
Score = Callable[[str, str, str, Mapping[str, Any]], float]
"""(prompt, answer, truth, row) -> a number, more is better."""
_LOOKED_AT = 256  # rows, for one that can be scored
_PIP = "pip install 'fedtune[rouge]'"


def exact_match(section: ExactMatchScore) -> Score:
    """1 or 0."""
    return lambda prompt, answer, truth, row: float(plainly(answer) == plainly(truth))


def rouge(section: RougeScore) -> Score:
    """F1 with stems, as Google's library has it.

    Raises:
        ValueError: If the library is not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise ValueError(f"evaluation.scores: rouge needs the library: {_PIP}") from error
    scorer = RougeScorer([section.kind], use_stemmer=True)

    def score(prompt: str, answer: str, truth: str, row: Mapping[str, Any]) -> float:
        return float(scorer.score(truth, answer)[section.kind].fmeasure)

    return score


def entry_point(section: EntryPointScore) -> Score:
    """A function (prompt, answer, truth, row) -> float that somebody installed here.

    Raises:
        ValueError: If none of this name is installed, or several, or it is no function.
    """
    score: Score = installed(section.entry, group=GROUP, key="evaluation.scores")
    return score


SCORES: Mapping[str, Callable[[Any], Score]] = {
    "exact_match": exact_match,
    "rouge": rouge,
    "entry_point": entry_point,
}


def load_scores(sections: Iterable[AnyScore]) -> dict[str, Score]:
    """The scores of a recipe, by their names in the figures.

    Raises:
        ValueError: If one is not to be had here, with what to do.
    """
    return {f"{SCORED}{each.called}": SCORES[each.name](each) for each in sections}


def needs_truth(sections: Iterable[AnyScore]) -> bool:
    """Whether only rows with a right answer can be scored; a user's own function takes any."""
    return any(not isinstance(each, EntryPointScore) for each in sections)


def check_scores(sections: Sequence[AnyScore], rows: Iterable[Mapping[str, Any]]) -> None:
    """Refuse scores that are not installed, or have nothing to go by.

    Args:
        sections: Of the recipe.
        rows: Of the source; the first few hundred are looked at.

    Raises:
        ValueError: With what to do.
    """
    if not sections:
        return
    load_scores(sections)
    found = filter(None, map(split_row, islice(rows, _LOOKED_AT)))
    if not any(truth or not needs_truth(sections) for _, truth in found):
        raise ValueError(
            "evaluation.scores: the rows have no prompt with a right answer; name a source with "
            "prompt and completion or messages, or leave scores out"
        )


def mean_scores(
    scores: Mapping[str, Score], asked: Sequence[Question], answers: Sequence[str]
) -> dict[str, float]:
    """Each score's mean over the answers; what is no finite number counts as 0.

    Args:
        scores: By name.
        asked: At least one.
        answers: To each.
    """
    found = {}
    for name, score in scores.items():
        told = [
            as_number(score(each.prompt, answer, each.truth, each.row))
            for each, answer in zip(asked, answers, strict=True)
        ]
        found[name] = math.fsum(told) / len(told)
    return found
