"""Scores and the watched figure: what a recipe may say of them, and what is refused."""

import pytest

from fedtune.recipe import RecipeError, parse_recipe
from fedtune.recipe.evaluation import FIGURES
from fedtune.training.tasks import dpo, reward

MEAN = {"aggregator": {"name": "mean", "f": 0}}
GRPO = {"task": "grpo", "rewards": [{"name": "format"}, {"name": "format"}]}


def recipe(evaluation, **sections):
    return parse_recipe({**MEAN, **sections, "evaluation": evaluation})


def test_scores_by_name_or_with_their_keys():
    rouge = {"name": "rouge", "kind": "rouge1"}
    told = recipe({"scores": ["exact_match", rouge, {"name": "entry_point", "entry": "mine"}]})
    assert [score.called for score in told.evaluation.scores] == ["exact_match", "rouge1", "mine"]


@pytest.mark.parametrize(
    ("watch", "sections"),
    [
        ("perplexity", {}),
        ("scores/rougeL", {}),
        ("rewards/accuracies", {"task": "dpo"}),
        ("reward", GRPO),
        ("rewards/format_2", GRPO),
    ],
)
def test_what_may_be_watched(watch, sections):
    told = recipe({"watch": watch, "stop_after": 2, "scores": ["rouge"]}, **sections)
    assert told.evaluation.watch == watch


@pytest.mark.parametrize(
    ("evaluation", "sections", "said"),
    [
        ({"scores": ["rouge", "rouge"]}, {}, "scores: each once; got rougeL twice"),
        ({"scores": ["bleu"]}, {}, "exact_match"),
        ({"scores": ["exact_match"]}, {"task": "reward"}, "a reward model gives no answers"),
        ({"stop_after": 2}, {}, "stop_after: needs watch"),
        ({"watch": "loss", "stop_after": 0}, {}, "greater than or equal to 1"),
        ({"watch": "accuracy"}, {}, "has no figure 'accuracy'; it has loss, perplexity, token"),
        ({"watch": "scores/rougeL"}, {}, "no figure 'scores/rougeL'"),
        ({"watch": "rewards/length"}, GRPO, "reward, loss, rewards/format, rewards/format_2"),
        ({"scores": [{"name": "entry_point", "entry": "a/b"}]}, {}, "entry"),
    ],
)
def test_what_is_refused(evaluation, sections, said):
    with pytest.raises(RecipeError) as caught:
        recipe(evaluation, **sections)
    assert said in " ".join(str(caught.value).split())


def test_what_may_be_watched_is_measured():
    """Of sft and grpo the runs below do so (test_scores, test_watched)."""
    assert set(FIGURES["dpo"]) <= {"loss", *dpo._KEYS}
    assert set(FIGURES["reward"]) <= {"loss", *reward._KEYS}
