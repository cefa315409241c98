"""Every kind of file and every format of TRL's is read; what is missing or wrong is named."""

import shutil

import pytest

from fedtune.nano import python_docs, python_topics
from fedtune.recipe import Data, Source
from fedtune.training.sources import find_source, hash_rows, load_rows
from fedtune.training.tasks import TASKS


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Relative names must mean the working folder, and find nothing of the repository."""
    monkeypatch.chdir(tmp_path)


def load(source, *, task="sft", seed=0, **more):
    return load_rows(Data(source=source, **more), TASKS[task], seed=seed)


@pytest.mark.parametrize(
    ("kind", "format"),
    [
        (kind, format)
        for kind in ("jsonl", "json", "csv", "parquet", "saved")
        for format in ("prompt_completion", "text", "messages")
        if (kind, format) != ("csv", "messages")  # csv holds no lists
    ],
)
def test_every_kind_and_format(small_data, kind, format):
    rows = load(str(small_data(kind, format)))
    assert len(rows) == 64
    # Row 3 by hand: 3 % 8 = 3, 3 % 5 = 3, 3 + 3 = 6, and 3 % 4 = 3 exclamation marks.
    assert (
        rows[3]
        == {
            "prompt_completion": {"prompt": "add 3 3: ", "completion": "6!!!", "topic": "topic-3"},
            "text": {"text": "add 3 3: 6!!!", "topic": "topic-3"},
            "messages": {
                "messages": [
                    {"role": "user", "content": "add 3 3: "},
                    {"role": "assistant", "content": "6!!!"},
                ],
                "topic": "topic-3",
            },
        }[format]
    )


def test_one_content_has_one_hash(small_data):
    hashes = {hash_rows(load(str(small_data(kind)))) for kind in ("jsonl", "csv", "parquet")}
    assert len(hashes) == 1
    rows = load(str(small_data("jsonl")))
    assert hash_rows(rows.select(range(63))) not in hashes
    assert hash_rows(rows.select([1, 0, *range(2, 64)])) not in hashes


def test_a_source_section_names_files_and_split(small_data, tmp_path):
    first, second = small_data("jsonl"), small_data("jsonl", num_rows=8)
    both = load(Source(path="json", data_files=[str(first), str(second)]))
    assert len(both) == 72
    shutil.copy(second, tmp_path / "here-1.jsonl")
    assert len(load(Source(path="json", data_files="here-*.jsonl"))) == 8
    assert len(load("here-1.jsonl")) == 8


def test_a_saved_folder_with_splits(small_data, tmp_path):
    from datasets import Dataset, DatasetDict

    rows = Dataset.from_json(str(small_data("jsonl")))
    folder = tmp_path / "splits"
    DatasetDict(train=rows, other=rows.select(range(5))).save_to_disk(folder)
    assert len(load(str(folder))) == 64
    assert len(load(Source(path=str(folder), split="other"))) == 5
    with pytest.raises(FileNotFoundError, match="needs a split 'test'; got train, other"):
        load(Source(path=str(folder), split="test"))


def test_a_folder_of_plain_files(small_data, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    shutil.copy(small_data("jsonl"), folder / "train.jsonl")
    assert len(load(str(folder))) == 64


def test_max_rows_draws_by_the_seed(small_data):
    source = str(small_data("jsonl"))
    draws = [load(source, max_rows=20, seed=seed) for seed in (0, 0, 1)]
    assert [len(draw) for draw in draws] == [20, 20, 20]
    assert hash_rows(draws[0]) == hash_rows(draws[1]) != hash_rows(draws[2])
    assert hash_rows(load(source, max_rows=64)) == hash_rows(load(source))


def test_python_docs_is_embedded():
    assert find_source("python-docs") == "python-docs"
    rows = load("python-docs")
    assert rows.to_list() == python_docs.rows()
    assert {"prompt", "completion", "module"} <= set(rows.column_names)


def test_python_topics_is_embedded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "python-topics").mkdir()  # a folder of that name changes nothing
    assert find_source("python-topics") == "python-topics"
    assert load("python-topics").to_list() == python_topics.rows()


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("rows.jsonl", "no file rows.jsonl"),
        ("/no/such/rows.parquet", "no file /no/such/rows.parquet"),
        ("./folder", "name a .json, .jsonl, .csv or .parquet file"),
        ("/no/such/folder", "nothing at /no/such/folder"),
        (Source(path="json", data_files="rows-*.jsonl"), "data_files: no file rows-*.jsonl"),
        (Source(path="json", data_files=["/no/such.jsonl"]), "data_files: no file /no/such.jsonl"),
    ],
)
def test_what_is_not_there_is_named_before_anything_is_read(source, part):
    with pytest.raises(FileNotFoundError, match=r"data\.source") as caught:
        find_source(source)
    assert part in str(caught.value)
    with pytest.raises(FileNotFoundError):
        load(source)


def test_a_hub_name_that_is_not_cached_says_what_to_do():
    assert find_source("nobody/nothing") == "hub"
    with pytest.raises(FileNotFoundError, match="not found here or on the hub") as caught:
        load("nobody/nothing")
    assert "name a file, a saved folder, or python-docs" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.jsonl", '{"question": "a", "answer": "b"}\n',
         "task sft needs columns prompt+completion or messages or text; got question, answer"),
        ("a.jsonl", '{"prompt": "a"}\n', "prompt+completion or messages or text; got prompt"),
        ("a.csv", "prompt,completion\na,1\nb,2\n",
         "column 'completion' needs text or messages; got int64"),
        ("a.csv", "prompt,completion\na,b\nc,\n",
         "column 'completion' needs a value in each row; got 1 empty of 2; take these rows out"),
        ("a.jsonl", '{"text": "a"}\n{"text": null}\n', "column 'text' needs a value in each row"),
        ("a.jsonl", '{"text": [1]}\n', "column 'text' needs text"),
        ("a.jsonl", '{"messages": "hello"}\n',
         "column 'messages' needs lists of messages; got string"),
        ("a.jsonl", "", "a.jsonl could not be read as json, split 'train': it is empty"),
        ("a.jsonl", '{"text": "a', "a.jsonl, line 1, is no JSON: Unterminated string"),
    ],
)  # fmt: skip
def test_rows_in_no_format_are_refused(tmp_path, name, text, problem):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=r"data\.source") as caught:
        load(str(tmp_path / name))
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("task", "text", "problem"),
    [
        ("reward", '{"prompt": "a", "chosen": "b"}\n',
         "task reward needs columns prompt+chosen+rejected or chosen+rejected; got prompt, chosen"),
        ("dpo", '{"text": "a"}\n',
         "task dpo needs columns prompt+chosen+rejected or chosen+rejected; got text"),
        ("dpo", '{"prompt": "a", "chosen": "b", "rejected": null}\n{"rejected": "c"}\n',
         "column 'chosen' needs a value in each row; got 1 empty of 2"),
        ("reward", '{"chosen": 1, "rejected": 2}\n',
         "column 'chosen' needs text or messages; got int64"),
        ("grpo", '{"question": "a"}\n', "task grpo needs columns prompt; got question"),
        ("grpo", '{"prompt": 3}\n', "column 'prompt' needs text or messages; got int64"),
    ],
)  # fmt: skip
def test_rows_that_another_task_needs_are_refused(tmp_path, task, text, problem):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(ValueError, match=r"data\.source") as caught:
        load(str(tmp_path / "a.jsonl"), task=task)
    assert problem in str(caught.value)


def test_a_split_that_is_not_there(small_data):
    with pytest.raises(ValueError, match="split 'test'"):
        load(Source(path="json", data_files=str(small_data("jsonl")), split="test"))
