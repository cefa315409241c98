"""`fedtune list` knows all that a recipe can name, each with a text of its own."""

from typing import get_args

import pytest

from fedtune.cli.look import Listed
from fedtune.listing import rows_of
from fedtune.recipe import Outer, Partition, Recipe, shipped_recipes
from fedtune.recipe.reward import REWARDS


@pytest.mark.parametrize("kind", [kind.value for kind in Listed])
def test_each_has_one_line_and_a_source(kind):
    rows = list(rows_of(kind))
    assert rows
    for name, what, source in rows:
        assert name
        assert len(what) > 5, f"{name} has no text"
        assert "\n" not in what
        assert source


def named(section, key):
    return set(get_args(section.model_fields[key].annotation))


def test_what_is_listed_is_what_the_schema_takes():
    listed = {kind.value: [name for name, _, _ in rows_of(kind.value)] for kind in Listed}
    assert set(listed["tasks"]) == named(Recipe, "task")
    assert set(listed["partitions"]) == named(Partition, "by")
    assert set(listed["outer"]) == named(Outer, "name")
    assert list(REWARDS) == listed["rewards"][: len(REWARDS)]
    assert listed["recipes"] == list(shipped_recipes())
    assert "bench_smoke" in listed["benches"]
