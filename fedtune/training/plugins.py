"""A user's own rewards and scores, asked once before a run asks them in earnest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fedtune.failing import one_line
from fedtune.recipe import Recipe
from fedtune.recipe.evaluation import EntryPointScore
from fedtune.recipe.reward import EntryPointReward
from fedtune.training import rewards, scores
from fedtune.training.questions import split_row

_ANSWER = "An answer."


def try_plugins(recipe: Recipe, row: Mapping[str, Any]) -> None:
    """Ask each entry point of a recipe about one row and a made-up answer.

    Raises:
        ValueError: If one raises, with its key.
    """
    for reward in recipe.rewards:
        if isinstance(reward, EntryPointReward):
            whole = json.loads(json.dumps(dict(row), default=str))  # as training hands it on
            asked = (rewards.text_of(row["prompt"]), _ANSWER, whole)
            _ask(f"rewards.{reward.entry}", rewards.entry_point(reward), *asked)
    for score in recipe.evaluation.scores:
        if isinstance(score, EntryPointScore):
            prompt, truth = split_row(row) or ("", "")
            text = rewards.text_of(prompt)
            _ask(f"evaluation.scores.{score.entry}", scores.entry_point(score), text, _ANSWER,
                 truth, row)  # fmt: skip


def _ask(key: str, function: Any, *asked: Any) -> None:  # noqa: ANN401  a user's own
    try:
        function(*asked)
    except Exception as error:  # whatever it raises now, it would raise in the run
        raise ValueError(f"{key}: asked about the first row it raises {one_line(error)}") from error
