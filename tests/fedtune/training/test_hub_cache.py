"""A hub name is found in the hub's cache, in the hub's own layout, with the network off.

Not proven here: a download. The tests have no network; what would be asked for is looked at.
"""

import os
import shutil
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file

from fedtune.recipe import Model
from fedtune.training.base import check_model, find_folder, load_base


def test_a_hub_name_is_found_in_the_cache(tiny_model_folder):
    cache = Path(os.environ["HF_HOME"]) / "hub" / "models--someone--tiny"
    snapshot = cache / "snapshots" / ("0" * 40)
    shutil.copytree(tiny_model_folder("qwen3"), snapshot)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0" * 40)
    try:
        section = Model(name_or_path="someone/tiny")
        assert find_folder(section) == snapshot
        check_model(section)
        (snapshot / "model.safetensors").rename(snapshot / "not yet")
        check_model(section)
        (snapshot / "not yet").rename(snapshot / "model.safetensors")
        local = Model(name_or_path=str(tiny_model_folder("qwen3")))
        assert load_base(section).base_hash == load_base(local).base_hash
    finally:
        shutil.rmtree(cache)


@pytest.mark.parametrize("name", ["someone/absent", "absent"])
def test_an_absent_hub_name_says_what_to_do(name):
    with pytest.raises(FileNotFoundError, match="name nano, a folder, or download"):
        find_folder(Model(name_or_path=name))
    with pytest.raises(FileNotFoundError, match="name nano, a folder, or download"):
        check_model(Model(name_or_path=name))


@pytest.fixture
def hub(tiny_model_folder, tmp_path, monkeypatch):
    """A folder that stands for a repository of the hub, and one for what was downloaded of it."""
    repository, cache = tmp_path / "repository", tmp_path / "cache"
    shutil.copytree(tiny_model_folder("llama"), repository)
    tensors = load_file(repository / "model.safetensors")
    torch.save(tensors, repository / "pytorch_model.bin")
    (repository / "training_args.bin").touch()
    cache.mkdir()

    def download(name, *, revision, allow_patterns):
        for file in repository.iterdir():
            if any(fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, cache)
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return repository, cache


def test_one_kind_of_weights_is_downloaded(hub):
    repository, cache = hub
    section = Model(name_or_path="someone/tiny", device="cpu")
    assert find_folder(section) == cache
    assert {file.name for file in repository.iterdir()} - {
        file.name for file in cache.iterdir()
    } == {"pytorch_model.bin", "training_args.bin"}
    load_base(section)


def test_weights_of_the_old_kind_are_downloaded_where_there_are_no_others(hub):
    repository, cache = hub
    (repository / "model.safetensors").unlink()
    load_base(Model(name_or_path="someone/tiny", device="cpu"))
    assert (cache / "pytorch_model.bin").is_file()
    assert not (cache / "training_args.bin").exists()
