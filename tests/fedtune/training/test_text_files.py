"""Files of other encodings, and names that a pattern would match too."""

import json

import pytest

from fedtune.recipe import Data, Source
from fedtune.training.sources import load_rows
from fedtune.training.tasks import TASKS

PAIR = {"prompt": "a", "completion": "b"}
LINE = json.dumps(PAIR) + "\n"
LATIN = (2 * LINE + '{"prompt": "Café", "completion": "x"}\n').encode("latin-1")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def read(source):
    return load_rows(Data(source=source), TASKS["sft"], seed=0).to_list()


@pytest.mark.parametrize(
    "source",
    [
        "rows/l1.jsonl",
        "rows",
        Source(path="json", data_files="rows/l1.jsonl"),
        Source(path="json", data_files=["rows/*.jsonl"]),
        Source(path="rows", data_files="l1.jsonl"),
    ],
)
def test_bytes_that_are_no_utf8_are_named_by_file_and_line(tmp_path, source):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/l1.jsonl").write_bytes(LATIN)
    with pytest.raises(ValueError, match=r"l1\.jsonl, line 3, is not UTF-8 .*Café"):
        read(source)


def test_wide_letters_are_named(tmp_path):
    (tmp_path / "wide.csv").write_bytes("prompt,completion\na,b\n".encode("utf-16"))
    with pytest.raises(ValueError, match=r"wide\.csv is UTF-16"):
        read("wide.csv")


@pytest.mark.parametrize("name", ["rows[1].jsonl", "h*w.jsonl", "h?w.jsonl"])
def test_a_file_that_is_there_means_itself(tmp_path, name):
    (tmp_path / name).write_text(LINE)
    for other in ("rows1.jsonl", "how.jsonl"):
        (tmp_path / other).write_text('{"text": "another"}\n')
    for source in (
        name,
        str(tmp_path / name),
        Source(path="json", data_files=name),
        Source(path="json", data_files=[str(tmp_path / name)]),
    ):
        assert read(source) == [PAIR]


def test_a_folder_whose_name_is_a_pattern_is_refused(tmp_path):
    (tmp_path / "rows[2]").mkdir()
    (tmp_path / "rows[2]/train.jsonl").write_text(LINE)
    with pytest.raises(ValueError, match=r"rows\[2\]: rename the folder"):
        read("rows[2]")


def test_a_line_that_is_no_row_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text(3 * LINE + '{"prompt": "a, "completion": "b"}\n')
    with pytest.raises(ValueError, match=r"^data\.source: a\.jsonl, line 4, is no JSON: Expecting"):
        read("a.jsonl")
    (tmp_path / "c.json").write_text('[\n{"text": "a"},\n{"text": "b"},,\n]\n')
    with pytest.raises(ValueError, match=r"c\.json, line 3, is no JSON: .*; mend that line"):
        read("c.json")
    with pytest.raises(ValueError, match=r"a\.jsonl, line 4, is no JSON"):
        read(Source(path="json", data_files=["*.jsonl"]))
    (tmp_path / "b.jsonl").write_text(LINE + "[1]\n")
    with pytest.raises(ValueError, match=r"b\.jsonl could not be read as json"):
        read("b.jsonl")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prompt,completion\na,b,c\n", "line 2: 3 fields, and the head has 2 (prompt, completion)"),
        ("prompt,completion\na,b,\nc,d,\n", "line 2: 3 fields, and the head has 2"),
        ('prompt,completion\n"a\nb",c\nd,e,f\n', "line 4: 3 fields"),
        ("prompt;completion\na;b\n", "'prompt;completion': are fields parted by ';'? save"),
        ("prompt\tcompletion\na\tb\n", "are fields parted by '\\t'? save the file with commas"),
    ],
)
def test_csv_that_does_not_fit_its_head_is_refused(tmp_path, text, told):
    # pandas takes the first of three fields for the row's name: b -> prompt, c -> completion
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=r"data\.source: .*a\.csv") as caught:
        read("a.csv")
    assert told in str(caught.value)


def test_csv_with_commas_in_quotes_is_read_as_it_stands(tmp_path):
    (tmp_path / "a.csv").write_text('prompt,completion\n"a, b","c\nd"\ne,f\n')
    taken = read("a.csv")
    assert taken == [{"prompt": "a, b", "completion": "c\nd"}, {"prompt": "e", "completion": "f"}]
