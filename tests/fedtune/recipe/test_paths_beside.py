"""Paths of a recipe are looked for beside its file, then in the working folder, and both named."""

import json

import pytest

from fedtune.attack_bench.schema import load_bench
from fedtune.recipe import load_recipe
from fedtune.recipe.beside import looked_in
from fedtune.recipe.source import read_run_recipe
from fedtune.recipe.stages import load
from fedtune.runs.checks.preflight import find_problems
from fedtune.training.sources import find_source


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A recipe with rows beside it, and another working folder."""
    (tmp_path / "project" / "data").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    row = json.dumps({"prompt": "a", "completion": "b"})
    (tmp_path / "project" / "data" / "rows.jsonl").write_text(row)
    return tmp_path / "project"


def write(project, text):
    (project / "mine.yaml").write_text(text)
    return str(project / "mine.yaml")


def test_what_lies_beside_the_recipe_is_found_from_anywhere(project):
    (project / "model").mkdir()
    recipe = load_recipe(
        write(project, "{model: {name_or_path: model}, data: {source: data/rows.jsonl}}")
    )
    assert recipe.data.source == str(project / "data" / "rows.jsonl")
    assert recipe.model.name_or_path == str(project / "model")
    held_out = load_recipe(write(project, "data: {eval_source: data/rows.jsonl}")).data.eval_source
    assert held_out == str(project / "data" / "rows.jsonl")
    source = "{path: json, data_files: [data/*.jsonl, other.jsonl]}"
    files = load_recipe(write(project, f"data: {{source: {source}}}")).data.source.data_files
    assert files == [str(project / "data" / "*.jsonl"), "other.jsonl"]


def test_the_recipes_folder_comes_before_the_working_folder(project, tmp_path):
    (tmp_path / "elsewhere" / "data").mkdir()
    (tmp_path / "elsewhere" / "data" / "rows.jsonl").write_text("{}")
    (tmp_path / "elsewhere" / "only_here.jsonl").write_text("{}")
    recipe = load_recipe(write(project, "data: {source: data/rows.jsonl}"))
    assert recipe.data.source == str(project / "data" / "rows.jsonl")
    recipe = load_recipe(write(project, "data: {source: only_here.jsonl}"))
    assert recipe.data.source == "only_here.jsonl"
    typed = ["data.source=data/rows.jsonl"]  # on the command line, so in the working folder
    assert load_recipe(write(project, "{}"), typed).data.source == "data/rows.jsonl"
    (tmp_path / "elsewhere" / "data" / "rows.jsonl").unlink()
    recipe = load_recipe(write(project, "{}"), typed)
    assert recipe.data.source == str(project / "data" / "rows.jsonl")


def test_a_name_of_ours_is_no_path(project):
    for name in ("nano", "python-docs", "base"):
        (project / name).mkdir()
    text = "{task: dpo, reference: base, model: {name_or_path: nano}, data: {source: python-docs}}"
    recipe = load_recipe(write(project, text))
    assert (recipe.model.name_or_path, recipe.data.source) == ("nano", "python-docs")
    assert recipe.reference == "base"


def test_a_stage_is_meant_before_a_folder(project):
    (project / "sft").mkdir()
    stages = "[{name: sft}, {name: dpo, task: dpo, reference: sft}]"
    text = f"{{output_dir: out, stages: {stages}}}"
    assert load(write(project, text)).stage("dpo").recipe.reference == "out/sft"


def test_what_is_missing_is_told_with_the_folders_looked_in(project, tmp_path):
    recipe = load_recipe(write(project, "data: {source: data/row.jsonl}"))
    with pytest.raises(FileNotFoundError) as refused:
        find_source(recipe.data.source)
    assert str(refused.value) == (
        f"data.source: no file data/row.jsonl; looked in {project}, then in "
        f"{tmp_path / 'elsewhere'}"
    )
    assert looked_in("/somewhere") == ""
    load_recipe("quickstart")  # a shipped one has nothing beside it
    assert looked_in("x.jsonl") == f"; looked in {tmp_path / 'elsewhere'}"


def test_each_recipe_is_judged_by_its_own_folder_whichever_was_read_last(project, tmp_path):
    first = load_recipe(write(project, "data: {source: data/row.jsonl}"))
    same = load_recipe("quickstart", ["data.source=data/row.jsonl"])
    there = tmp_path / "elsewhere"
    for recipe, folders in ((first, f"{project}, then in {there}"), (same, str(there))):
        copied = recipe.model_copy(update={"output_dir": tmp_path / "run"})
        for each in (recipe, copied):
            (problem,) = [one for one in find_problems(each) if "data.source" in one]
            assert problem == f"data.source: no file data/row.jsonl; looked in {folders}"
    assert first == load_recipe(write(tmp_path, "data: {source: data/row.jsonl}"))


def test_a_strangers_run_folder_names_nothing_beside_it(project):
    (project / "Qwen" / "Qwen3-0.6B").mkdir(parents=True)
    (project / "recipe.yaml").write_text("model: {name_or_path: Qwen/Qwen3-0.6B}")
    assert read_run_recipe(project).model.name_or_path == "Qwen/Qwen3-0.6B"


def test_the_base_of_a_bench_lies_beside_it(project):
    write(project, "{federation: {num_rounds: 3}}")
    (project / "bench.yaml").write_text(
        "{title: x, level: training, base: mine.yaml, attacks: {flip: {name: sign_flip}}, "
        "defences: {mean: {aggregator: {name: mean}}}, fractions: [0.2], seeds: [0]}"
    )
    assert load_bench(str(project / "bench.yaml")).base == str(project / "mine.yaml")
