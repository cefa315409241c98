"""`fedtune init`: a recipe for somebody's data, which `fedtune check` passes.

Not proven here: that the recipe's rates are good ones; they are a place to begin.
"""

import json
import sys

import pytest
from typer.testing import CliRunner

from fedtune import api
from fedtune.cli import app
from fedtune.recipe import load_recipe


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    return tmp_path


def write(project, rows, name="rows.jsonl"):
    (project / "data" / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"data/{name}"


def init(*words, answers=None):
    result = CliRunner().invoke(
        app, ["init", *map(str, words)], input=answers, env={"COLUMNS": "200"}
    )
    assert "Traceback" not in result.output
    return result


def questions(count=60):
    return [
        {"question": f"add {k} {k}", "answer": str(2 * k), "org": f"o{k % 5}"} for k in range(count)
    ]


def chat(turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


SHAPES = {
    "sft": {"question": "add 3 4", "answer": "7"},
    "chat": chat([("user", "add 3 4"), ("assistant", "7")]),
    "alpaca": {"instruction": "add", "input": "3 4", "output": "7"},
    "sharegpt": {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    "text": {"text": "three and four are seven"},
    "dpo": {"prompt": "add 3 4", "chosen": "7", "rejected": "8"},
    "reward": {"prompt": "add 3 4", "preferred": "7", "worse": "8"},
    "grpo": {"question": "add 3 4", "solution": 7},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_what_it_writes_is_checked_whatever_the_shape_of_the_data(project, shape):
    source = write(project, [SHAPES[shape]] * 40)
    task = shape if shape in {"sft", "dpo", "reward", "grpo"} else "sft"
    made = init("mine.yaml", "--data", source, "--task", task, "--clients", 4)
    assert made.exit_code == 0, made.output
    recipe = load_recipe("mine.yaml")
    assert (recipe.task, recipe.federation.num_clients, recipe.aggregator.f) == (task, 4, 1)
    # what a check without --quick asks of rows and split; the trainer's try is tested elsewhere
    from fedtune.runs.checks.tried import _data

    assert _data(recipe) == []
    assert api.check(recipe, quick=True) is not None
    for line in (project / "mine.yaml").read_text().splitlines():
        assert len(line) <= 120


@pytest.mark.slow
def test_the_whole_check_passes_it(project):
    source = write(project, questions())
    assert init("mine.yaml", "--data", source, "--by", "org").exit_code == 0
    recipe = load_recipe("mine.yaml")
    assert recipe.data.partition.column == "org"
    assert recipe.federation.num_clients == 5, "as many as organisations"
    api.check(recipe)


def test_at_a_terminal_it_asks(project, monkeypatch):
    monkeypatch.setattr(sys.modules["fedtune.cli.init"], "_at_a_terminal", lambda: True)
    source = write(project, questions())
    made = init("mine.yaml", answers=f"{source}\nsft\nnano\norg\n3\n")
    assert made.exit_code == 0, made.output
    recipe = load_recipe("mine.yaml")
    assert recipe.data.columns == {"prompt": "question", "completion": "answer"}
    assert recipe.data.partition.column == "org"
    assert recipe.federation.num_clients == 3
    assert "org (5 values)" in made.output
    odd = write(project, [{"a b": "x", "c": "y"}] * 20, "odd.jsonl")
    made = init("odd.yaml", "--data", odd, answers="\na b\nc\n\n\n")
    assert made.exit_code == 0, made.output
    assert load_recipe("odd.yaml").data.columns == {"prompt": "a b", "completion": "c"}


def test_the_data_are_found_from_the_recipes_folder(project, monkeypatch):
    source = write(project, questions())
    (project / "recipes").mkdir()
    assert init("recipes/mine.yaml", "--data", source).exit_code == 0
    assert "source: ../data/rows.jsonl" in (project / "recipes" / "mine.yaml").read_text()
    monkeypatch.chdir("/")
    api.check(load_recipe(str(project / "recipes" / "mine.yaml")), quick=True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["there.yaml", "--data", "data/rows.jsonl"], "is there already"),
        (["mine.yaml"], "--data: needed without a terminal"),
        (["mine.yaml", "--data", "data/none.jsonl"], "no file data/none.jsonl"),
        (["no/mine.yaml", "--data", "data/rows.jsonl"], "no folder no"),
        (["mine.yaml", "--data", "data/rows.jsonl", "--clients", "500"], "needs 1 to 27"),
        (["mine.yaml", "--data", "data/rows.jsonl", "--by", "organ"], "did you mean 'org'"),
        (["mine.yaml", "--data", "data/rows.jsonl", "--task", "sfft"], "did you mean 'sft'"),
        (["mine.yaml", "--data", "data/rows.jsonl", "--task", "dpo"], "chosen=...,rejected=..."),
        (["mine.yaml", "--data", "data/rows.jsonl", "--columns", "prompt=que"], "no 'que'"),
        (["mine.yaml", "--data", "data/rows.jsonl", "--model", "./none"], "is no folder"),
    ],
)
def test_what_it_refuses_leaves_no_file(project, words, told):
    write(project, questions())
    (project / "there.yaml").write_text("task: sft\n")
    made = init(*words)
    assert made.exit_code == 2
    assert told in " ".join(made.output.split())
    assert (project / "there.yaml").read_text() == "task: sft\n"
    assert not (project / "mine.yaml").exists()
