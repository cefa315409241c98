"""The data set of unlike holders: who holds what, and that it is always the same.

Not proven here: the rows of Python versions other than the one that runs the test.
"""

import subprocess
import sys
from collections import Counter
from importlib import import_module

import pytest

from fedtune.attack_bench.cells import lay_out
from fedtune.attack_bench.schema import load_bench
from fedtune.nano import python_docs, python_topics
from fedtune.nano.python_tasks import rows_for
from fedtune.recipe import load_recipe
from fedtune.runs.client_names import name_clients
from fedtune.simulation.adversary import byzantine_clients
from fedtune.training.worker import Worker


@pytest.fixture(scope="module")
def topics():
    return python_topics.rows()


def test_ten_holders_of_four_topics_and_as_many_rows_each(topics):
    holders = Counter(row["holder"] for row in topics)
    assert set(holders.values()) == {240}
    assert Counter(holder.split()[0] for holder in holders) == {
        "docs": 4, "reference": 3, "code": 2, "characters": 1,
    }  # fmt: skip
    assert all(row["holder"].startswith(row["topic"]) for row in topics)


def test_rows_keep_their_bounds(topics):
    for row in topics:
        assert list(row) == ["prompt", "completion", "topic", "holder", "name"]
        assert 20 <= len(row["completion"]) <= 240
        assert row["prompt"].endswith("\n")
        assert len(row["prompt"]) <= 141
    assert len({row["completion"] for row in topics}) >= 2390  # once in its topic


def test_known_rows_of_each_topic(topics):
    docs = {row["name"]: row for row in python_docs.rows()}
    assert all(row["prompt"] == docs[row["name"]]["prompt"] for row in of(topics, "docs"))
    names = {row["prompt"]: row["completion"] for row in of(topics, "characters")}
    assert all(prompt.startswith("U+") for prompt in names)
    assert all(name.isupper() for name in names.values())
    for row in of(topics, "code"):
        assert row["prompt"].startswith(("def ", "async def "))
        assert row["prompt"].endswith(":\n")
        assert row["completion"][0] != " "
    assert all("::=" not in row["completion"] for row in of(topics, "reference"))


def of(topics, topic):
    return [row for row in topics if row["topic"] == topic]


def test_another_process_reads_the_same_rows(topics):
    """Whatever its hash seed is."""
    code = (
        "from fedtune.nano import python_docs, python_topics;"
        "print(python_docs.content_hash(python_topics.rows()))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert told.stdout.strip() == python_docs.content_hash(topics)


def test_a_python_without_its_reference_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ImportError):
        import_module("pydoc_data.topics")
    with pytest.raises(FileNotFoundError, match="needs 720 rows of reference: got 0; install"):
        python_topics.rows()


def test_only_sft_has_such_rows(topics):
    assert rows_for("sft", "python-topics") == topics
    with pytest.raises(ValueError, match="python-topics is of task sft alone: got dpo"):
        rows_for("dpo", "python-topics")


def test_each_client_of_the_recipe_is_one_holder_and_is_named_so():
    recipe = load_recipe("minority")
    names = name_clients(recipe, Worker(recipe))
    assert len(set(names)) == 10
    assert names.count("holder characters 1") == 1
    assert all(name.startswith("holder ") and "more" not in name for name in names)


def test_the_minorities_are_honest_under_the_seeds_of_the_bench():
    """Else there is no honest minority to be silenced; 28 cells, as its head says."""
    cells = lay_out(load_bench("bench_minority"))
    assert len(cells) == 28
    recipes = {cell.seed: cell.recipe for cell in cells if cell.num_attackers}
    assert len(recipes) == 2
    for recipe in recipes.values():
        names = name_clients(recipe, Worker(recipe))
        attackers = sorted(names[client].split()[1] for client in byzantine_clients(recipe))
        assert attackers == ["docs", "reference"]
