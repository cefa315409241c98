"""A hub name is found in the hub's cache, in the hub's own layout, with the network off.

Not proven here: a download. The tests have no network.
"""

import os
import shutil
from pathlib import Path

import pytest

from fedtune.recipe import Model
from fedtune.training.base import find_folder, load_base


def test_a_hub_name_is_found_in_the_cache(tiny_model_folder):
    cache = Path(os.environ["HF_HOME"]) / "hub" / "models--someone--tiny"
    snapshot = cache / "snapshots" / ("0" * 40)
    shutil.copytree(tiny_model_folder("qwen3"), snapshot)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0" * 40)
    try:
        section = Model(name_or_path="someone/tiny")
        assert find_folder(section) == snapshot
        local = Model(name_or_path=str(tiny_model_folder("qwen3")))
        assert load_base(section).base_hash == load_base(local).base_hash
    finally:
        shutil.rmtree(cache)


@pytest.mark.parametrize("name", ["someone/absent", "absent"])
def test_an_absent_hub_name_says_what_to_do(name):
    with pytest.raises(FileNotFoundError, match="name nano, a folder, or download"):
        find_folder(Model(name_or_path=name))
