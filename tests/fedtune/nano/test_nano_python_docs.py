"""The data set read from the standard library: what is in it, and that it is always the same.

Not proven here: the rows of Python versions other than the one that runs the test.
"""

import sys
from collections import Counter

import pytest

from fedtune.nano import python_docs
from fedtune.nano.docstrings import normalise


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDTUNE_CACHE", str(tmp_path / "cache"))
    return python_docs.cache_file()


def test_thousands_of_rows_of_one_schema(rows):
    assert len(rows) >= 3000
    for row in rows:
        assert list(row) == ["prompt", "completion", "module", "name"]
        assert all(isinstance(value, str) and value for value in row.values())


def test_prompts_and_completions_keep_their_bounds(rows):
    for row in rows:
        assert row["prompt"].endswith(":\n")
        assert row["prompt"].count("\n") == 1
        assert len(row["prompt"]) <= python_docs.MAX_PROMPT_CHARS
        assert row["name"] in row["prompt"]
        assert row["name"].startswith(row["module"] + ".")
        assert 20 <= len(row["completion"]) <= 400
        assert row["completion"] == " ".join(row["completion"].split())


def test_a_known_row_reads_as_it_should(rows):
    (row,) = [row for row in rows if row["name"] == "cmd.Cmd"]
    assert row["prompt"] == "class cmd.Cmd:\n"
    assert row["completion"].startswith("A simple framework for writing line-oriented command")


def test_no_forbidden_module(rows):
    modules = {row["module"] for row in rows}
    assert modules <= sys.stdlib_module_names
    assert modules.isdisjoint(python_docs.FORBIDDEN_MODULES)
    assert not any(module.startswith("_") for module in modules)
    assert not any(".test." in row["name"] or ".tests." in row["name"] for row in rows)
    assert {"asyncio", "collections", "datetime", "decimal", "email", "io"} <= modules


def test_no_completion_appears_twice(rows):
    completions = [normalise(row["completion"]) for row in rows]
    assert len(set(completions)) == len(completions)


def test_modules_are_unequal(rows):
    sizes = sorted(Counter(row["module"] for row in rows).values(), reverse=True)
    assert len(sizes) >= 100
    assert sizes[0] > 10 * sizes[len(sizes) // 2]


def test_reading_twice_and_reading_the_cache_give_the_same_bits(rows, cache):
    assert not cache.exists()
    first = python_docs.rows()
    assert cache.exists()
    second = python_docs.rows()
    assert first == second == rows
    assert [list(row) for row in second] == [list(row) for row in rows]
    assert python_docs.content_hash(second) == python_docs.content_hash(rows)


def test_an_intact_cache_is_read_and_not_the_sources(rows, cache, monkeypatch):
    python_docs._write_cache(cache, rows)
    monkeypatch.setattr(sys, "stdlib_module_names", frozenset())  # no source could be found
    assert python_docs.rows() == rows


def test_a_corrupted_cache_is_rebuilt(rows, cache):
    python_docs._write_cache(cache, rows)
    intact = cache.read_bytes()
    cache.write_bytes(intact.replace(b"Return", b"Reform", 1))
    assert python_docs.rows() == rows
    assert cache.read_bytes() == intact
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]  # nothing half-written


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b'["no header"]\n{"prompt": "p"}\n',
        b'{"content_hash": "0"}\n{"prompt": "p"}\n',
        b'{"content_hash": "0"}\n[1]\n{"cut',
    ],
)
def test_what_is_no_intact_cache_is_not_read(cache, content):
    cache.parent.mkdir()
    cache.write_bytes(content)
    assert python_docs._read_cache(cache) is None


def test_an_unwritable_cache_is_said_and_survived(rows, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("FEDTUNE_CACHE", str(tmp_path / "file"))
    assert python_docs.rows() == rows
    assert "set FEDTUNE_CACHE" in caplog.text


def test_the_cache_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.delenv("FEDTUNE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert python_docs.cache_file().parent == tmp_path / "fedtune"


def test_a_python_without_sources_is_refused(cache, monkeypatch):
    monkeypatch.setattr(sys, "stdlib_module_names", frozenset({"math"}))
    with pytest.raises(FileNotFoundError, match=r"needs a Python with the sources.*got 0.*install"):
        python_docs.rows()
    assert not cache.exists()


def test_the_hash_sees_content_and_order(rows):
    some = rows[:3]
    assert python_docs.content_hash(some) != python_docs.content_hash(some[::-1])
    changed = [*some[:2], {**some[2], "completion": "other"}]
    assert python_docs.content_hash(some) != python_docs.content_hash(changed)
