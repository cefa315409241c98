"""Scores of answers to held-out prompts: by hand, by a library, by a user's own function."""

import math
import sys
import types

import pytest

from fedtune.recipe.evaluation import EntryPointScore, ExactMatchScore, RougeScore
from fedtune.training import scores
from fedtune.training.questions import Question
from fedtune.training.scores import check_scores, load_scores, mean_scores

ASKED = [Question([1], "2 + 2?", "Four.", {"id": 1}), Question([2], "3 + 3?", "Six.", {"id": 2})]


def test_exact_match_looks_past_white_space_and_case():
    loaded = load_scores([ExactMatchScore(name="exact_match")])
    found = {"scores/exact_match": 0.5}
    assert mean_scores(loaded, ASKED, [" four. ", "Six"]) == found
    assert mean_scores(loaded, ASKED, ["Five.", "six.\n"]) == found


def test_rouge_without_its_library_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(ValueError, match=r"needs the library: pip install 'fedtune\[rouge\]'"):
        load_scores([RougeScore(name="rouge")])


def test_rouge_is_the_librarys(monkeypatch):
    """The library is not installed with the tests: a module with its names stands for it."""

    class RougeScorer:
        def __init__(self, kinds, *, use_stemmer):
            assert (kinds, use_stemmer) == (["rouge1"], True)

        def score(self, target, prediction):
            share = len({*target.split()} & {*prediction.split()}) / len(target.split())
            return {"rouge1": types.SimpleNamespace(fmeasure=share)}

    there = types.ModuleType("rouge_score.rouge_scorer")
    there.RougeScorer = RougeScorer
    monkeypatch.setitem(sys.modules, "rouge_score", types.ModuleType("rouge_score"))
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", there)
    loaded = load_scores([RougeScore(name="rouge", kind="rouge1")])
    assert mean_scores(loaded, ASKED, ["Four. it is", "no"]) == {"scores/rouge1": 0.5}


def test_a_users_function_is_asked_with_prompt_answer_truth_and_row(monkeypatch):
    seen, answers = [], iter([3.5, math.nan])

    def mine(*given):
        seen.append(given)
        return next(answers)

    monkeypatch.setattr(scores, "installed", lambda entry, **_: {"mine": mine}[entry])
    loaded = load_scores([EntryPointScore(name="entry_point", entry="mine")])
    assert mean_scores(loaded, ASKED, ["4", "6"]) == {"scores/mine": 1.75}  # what is NaN is 0
    assert seen[1] == ("3 + 3?", "6", "Six.", {"id": 2})


def test_an_entry_point_that_is_not_installed_is_named():
    with pytest.raises(ValueError, match=r"evaluation.scores: no entry point 'mine' in the group "):
        load_scores([EntryPointScore(name="entry_point", entry="mine")])


@pytest.fixture
def scored(make_worker, monkeypatch):
    """Return a function: format -> a worker that scores 2 answers of 4 tokens, and what it saw."""

    def make(format, **evaluation):
        seen = []

        def length(prompt, answer, truth, row):
            seen.append((prompt, truth))
            return 1 + len(answer)

        monkeypatch.setattr(scores, "installed", lambda entry, **_: length)
        asked = ["exact_match", {"name": "entry_point", "entry": "length"}]
        keys = {"scores": asked, "score_rows": 2, "max_new_tokens": 4} | evaluation
        return make_worker(format=format, evaluation=keys), seen

    return make


def test_of_the_global_split_and_of_each_client(scored):
    worker, seen = scored("messages")
    figures = worker.evaluator.measure(worker.initial).others
    assert {"scores/exact_match", "scores/length", "perplexity"} <= set(figures)
    assert figures["scores/length"] > 0
    chats = worker.data.rows.select(worker.data.split.test[:2])["messages"]
    assert seen == [tuple(turn["content"].strip() for turn in chat) for chat in chats]
    seen.clear()
    own = worker.evaluator.measure(worker.initial, client=1).others
    assert "scores/length" in own
    chats = worker.data.rows.select(worker.data.parts[1].test[:2])["messages"]
    assert seen == [tuple(turn["content"].strip() for turn in chat) for chat in chats]
    seen.clear()
    worker.evaluator.loss(worker.initial, client=1)  # as for a vote: nothing is generated
    assert not seen


def test_rows_of_one_text_cannot_be_scored(scored):
    worker, _ = scored("text", scores=["exact_match"])
    with pytest.raises(ValueError, match="client 0's held-out rows have no prompt with a right"):
        worker.evaluator.measure(worker.initial, client=0)


def test_check_says_it_before_a_model_is_loaded():
    exact = [ExactMatchScore(name="exact_match")]
    check_scores(exact, [{"text": "a"}, {"prompt": "a", "completion": "b"}])
    check_scores([], [{"text": "a"}])
    for rows in ([{"text": "a"}], [{"prompt": "a"}], []):
        with pytest.raises(ValueError, match="no prompt with a right answer"):
            check_scores(exact, rows)
