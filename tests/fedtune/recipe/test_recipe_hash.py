"""A recipe's hash holds run folders to it: a key that is younger than a folder changes no hash."""

import pytest

from fedtune.recipe import parse_recipe
from fedtune.recipe.hashing import hash_recipe

# As they were before the keys below came; another default changes them, and says so in CHANGELOG.
PLAIN = "4a11933908303a22d69f7ac0f8f36a5717cf92d55d60416c5e4cf56d76f33d7e"
OF_FILES = "fd061196b0f54f0ed762d9f3f51a5ba7a30846cae0a050df166b5e1e3266cb89"
FILES = {"task": "dpo", "data": {"source": {"path": "csv", "data_files": "a.csv"}}}


def test_a_recipe_without_the_younger_keys_has_the_hash_that_it_had():
    assert hash_recipe(parse_recipe({})) == PLAIN
    assert hash_recipe(parse_recipe(FILES)) == OF_FILES


@pytest.mark.parametrize(
    "younger",
    [
        {"model": {"attn_implementation": "eager"}},
        {"federation": {"local_epochs": 1}},
        {"data": {"source": {"path": "json", "data_files": "a.json", "take": 5}}},
    ],
    ids=str,
)
def test_a_younger_key_counts_where_it_is_set(younger):
    assert hash_recipe(parse_recipe(younger)) != PLAIN
