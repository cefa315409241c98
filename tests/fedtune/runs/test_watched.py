"""The best round's adapter is kept beside the last, and a run may end for want of a better one."""

import io

import pytest
from rich.console import Console
from safetensors.torch import load_file

from fedtune.recipe import Recipe
from fedtune.recipe.evaluation import Evaluation
from fedtune.records.best import best_of, is_exhausted
from fedtune.records.lines import RoundRecord
from fedtune.report.pages.writing import write_run_page
from fedtune.report.status import Watch
from fedtune.report.status_words import view_of
from fedtune.report.table import print_summary
from fedtune.runs.results import RunResult
from fedtune.trust.lines import contradictions


def records(*values, figure="loss"):
    """Rounds from 0 on; None was not measured."""
    return [
        RoundRecord(round=at, eval=None if value is None else {figure: value})
        for at, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("values", "watch", "best"),
    [
        ((3.0, 2.0, 2.0, 2.5), "loss", 1),  # the first of equals
        ((3.0, 4.0), "loss", 0),
        ((0.1, None, 0.3, 0.2), "scores/exact_match", 2),
        ((-1.0, 0.5), "reward", 1),
        ((9.0, 8.0), "perplexity", 1),
        ((), "loss", None),
    ],
)
def test_the_best_round_by_hand(values, watch, best):
    assert best_of(records(*values, figure=watch), watch) == best


def test_a_run_waits_as_many_rounds_as_it_is_told():
    section = Evaluation(watch="loss", stop_after=2)
    assert not is_exhausted(records(3.0, 2.0, 2.5), section)
    assert is_exhausted(records(3.0, 2.0, 2.5, 2.1), section)
    assert is_exhausted(records(3.0, 2.0, None, 2.1, None), section)
    assert not is_exhausted(records(3.0, 2.0, None, None), section)  # nothing is known since
    assert not is_exhausted(records(3.0, 2.0, 2.5, 2.1), Evaluation(watch="loss"))


def tensors(folder):
    return load_file(folder / "adapter_model.safetensors")


def equal(one, other):
    return all(bool((one[name] == other[name]).all()) for name in one)


def test_a_run_that_gets_no_better_ends_early(tiny_recipe, run, tmp_path):
    """At this rate losses are 5.465, 5.375 and 5.426: round 2 is the first that is no better."""
    recipe: Recipe = tiny_recipe(
        train={"learning_rate": 0.1},
        federation={"num_rounds": 9, "num_clients": 2},
        aggregator={"name": "mean", "f": 0},
        evaluation={"watch": "loss", "stop_after": 1, "per_client": True},
    )
    folder = run(recipe)
    found = folder.read_records()
    losses = [each.eval["loss"] for each in found]
    best = losses.index(min(losses))
    assert (best, len(found)) == (1, 3)
    assert [each.stopped_early for each in found] == [False] * (len(found) - 1) + [True]
    assert found[-1].best_round == best
    assert set(found[-1].client_eval) == {0, 1}  # measured at the end, wherever that is
    result = RunResult(folder.path, recipe)
    assert (result.best_round, result.best_adapter) == (best, folder.path / "adapter_best")
    assert not equal(tensors(folder.adapter), tensors(folder.best_adapter))
    beside = {each.name for each in folder.adapter.iterdir()}
    assert {each.name for each in folder.best_adapter.iterdir()} == beside
    assert {"README.md", "tokenizer.json", "adapter_config.json"} <= beside
    card = (folder.best_adapter / "README.md").read_text()
    assert "- rounds: 1 of 9, " in card
    assert f"| loss | {losses[0]:.5g} | {losses[best]:.5g} |" in card

    run.resume(folder.open(folder.path)[1], folder)  # it is over, and stays so
    assert len(folder.read_records()) == len(found)

    # The adapter that is kept is that of the round: a run of so many rounds ends with it.
    shorter = recipe.model_copy(update={
        "federation": recipe.federation.model_copy(update={"num_rounds": 1}),
        "output_dir": tmp_path / "shorter",
    })  # fmt: skip
    assert equal(tensors(run(shorter).adapter), tensors(folder.best_adapter))

    said = "Best: round 1, kept in adapter_best; the run ended early"
    status = Watch(folder.path).look()
    assert status.state == "finished"
    view = view_of(status)
    assert view.share == 1.0
    assert any(text.startswith(said) for _, text in view.facts)
    console = Console(file=io.StringIO(), width=200)
    print_summary(console, recipe, found, [], folder)
    assert said in console.file.getvalue()
    assert "fedtune merge" in console.file.getvalue()
    assert said in write_run_page(recipe, folder).read_text()


def test_a_record_that_ends_early_without_reason_is_found(tiny_recipe):
    recipe = tiny_recipe(evaluation={"watch": "loss", "stop_after": 2})
    cut = records(3.0, 2.0)
    cut[-1].stopped_early = True
    (found, *_) = contradictions(cut, recipe)
    assert "ends early with round 1: by its recipe the run goes on" in str(found)
