"""`take` reads the first rows of a source, the same as a whole read has, and no more of its files.

Not proven here: a data set of the hub.
"""

import json

import pandas
import pytest

from fedtune.recipe import RecipeError, Source, parse_recipe
from fedtune.runs.checks.rows import look_at_rows
from fedtune.training import sources
from fedtune.training.sources import hash_rows, read_source

ROWS = [{"prompt": f"add {i}: ", "completion": f" {i}\nor so", "n": i} for i in range(60)]
KINDS = ["json", "csv", "parquet"]


@pytest.fixture
def files(tmp_path):
    """A file of the same rows in each of the hub's formats."""
    table = pandas.DataFrame(ROWS)
    (tmp_path / "rows.json").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    table.to_csv(tmp_path / "rows.csv", index=False)
    table.to_parquet(tmp_path / "rows.parquet")
    return {kind: str(tmp_path / f"rows.{kind}") for kind in KINDS}


def source(path, files, **keys):
    return Source(path=path, data_files=files, **keys)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_rows_are_those_of_a_whole_read(files, kind):
    whole = read_source(source(kind, files[kind]), "sft")
    for count in (1, 25, 60, 1000):
        first = read_source(source(kind, files[kind], take=count), "sft")
        assert first.features == whole.features
        assert hash_rows(first) == hash_rows(whole.select(range(min(count, 60))))


def test_no_more_is_read_than_the_rows_take(tmp_path, files, monkeypatch):
    """A second file that no reader could read is never opened, and damage behind is not seen."""
    from datasets import Dataset

    later = tmp_path / "rows2.json"
    later.write_bytes(b"\xff\xfe no json")
    both = [files["json"], str(later)]
    assert len(read_source(source("json", both, take=60), "sft")) == 60
    with pytest.raises(ValueError, match=r"rows2\.json is UTF-16"):
        read_source(source("json", both, take=61), "sft")
    behind = tmp_path / "rows3.csv"
    behind.write_bytes((tmp_path / "rows.csv").read_bytes() + b'"caf\xe9","b",1\n')
    checked = []
    real = sources.check_text
    monkeypatch.setattr(sources, "check_text", lambda each: checked.append(real(each)))
    monkeypatch.setattr(sources, "_first", lambda stream, count: Dataset.from_list(ROWS[:count]))
    assert len(read_source(source("csv", str(behind), take=60), "sft")) == 60  # 121 lines
    assert checked == [None]
    with pytest.raises(ValueError, match="line 122, is not UTF-8"):
        read_source(source("csv", str(behind), take=61), "sft")


def test_clients_are_dealt_what_was_taken_and_check_says_so(files, tiny_model_folder):
    recipe = parse_recipe(
        {
            "model": {"name_or_path": str(tiny_model_folder("llama")), "device": "cpu"},
            "data": {
                "source": {"path": "csv", "data_files": files["csv"], "take": 40},
                "partition": {"by": "iid", "min_rows": 4},
            },
            "federation": {"num_clients": 3},
            "aggregator": {"name": "mean"},
            "evaluation": {"max_rows": 4},
        }
    )
    found = look_at_rows(recipe)
    # A tenth is held out of the whole, and of each client's 12: 4, and 1 each.
    assert [each.rows for each in found.counts] == [11, 11, 11]
    said = "data.source: take: the first 40 rows of csv; what comes after them is not read"
    assert said in found.notes


def test_a_saved_folder_gives_its_first_rows(tmp_path):
    from datasets import Dataset

    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    first = read_source(Source(path=str(tmp_path / "saved"), take=7), "sft")
    assert first.to_list() == ROWS[:7]


def test_a_slice_of_a_stream_is_refused():
    split = {"path": "json", "data_files": "a.json", "split": "train[:9]", "take": 5}
    with pytest.raises(RecipeError, match=r"a stream has no slices: got split .*; write train"):
        parse_recipe({"data": {"source": split}})
