"""A hash in allowed_models means files that are on this machine already, all that loading reads."""

import json
import os
import shutil
from pathlib import Path

import huggingface_hub
import pytest

from fedtune.messages.node_errors import NotAllowedError
from fedtune.node.allowed_models import allowed_model
from fedtune.recipe import Model
from fedtune.training.base import load_base
from fedtune.training.model_hash import hash_model

ANYTHING = "sha256:" + "0" * 64
NAMED = Model(name_or_path="someone/tiny")


@pytest.fixture
def cached(tiny_model_folder):
    """The snapshot of someone/tiny in the hub's cache, as a download would leave it."""
    cache = Path(os.environ["HF_HOME"]) / "hub" / "models--someone--tiny"
    snapshot = cache / "snapshots" / ("0" * 40)
    shutil.copytree(tiny_model_folder("qwen3"), snapshot)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0" * 40)
    hash_model.cache_clear()
    yield snapshot
    shutil.rmtree(cache)
    hash_model.cache_clear()


@pytest.fixture
def asked(monkeypatch):
    """Each file or repository that the hub would have been asked for over the network."""
    found = []

    def download(name, *, local_files_only=False, **_):
        if not local_files_only:
            found.append(name)
        raise huggingface_hub.errors.LocalEntryNotFoundError("not here")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return found


@pytest.mark.parametrize("name", ["someone/no", "absent", "../x", "a/..", "/etc", "~/m", "a/b/c"])
def test_where_only_hashes_are_allowed_nothing_is_fetched(asked, name):
    with pytest.raises(NotAllowedError, match="is not in allowed_models"):
        allowed_model(Model(name_or_path=name), [ANYTHING])
    assert asked == []


def test_a_model_that_is_here_is_loaded_from_the_folder_that_was_hashed(cached):
    found = allowed_model(NAMED, [f"sha256:{hash_model(cached)}"])
    assert (found.name_or_path, found.revision) == (str(cached), None)
    assert load_base(found).model.config.model_type == "qwen3"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: _set(folder / "tokenizer_config.json", "chat_template", "{{ 9**(9**9) }}"),
        lambda folder: (folder / "chat_template.jinja").write_text("{{ 9**(9**9) }}"),
        lambda folder: _set(folder / "tokenizer.json", "truncation", None, "x"),
        lambda folder: _set(folder / "config.json", "rope_theta", 3.0),
        lambda folder: _set(folder / "generation_config.json", "num_beams", 10_000),
        lambda folder: (folder / "adapter_config.json").write_text('{"base_model": "other/one"}'),
        lambda folder: (folder / "added_tokens.json").write_text("{}"),
        lambda folder: _append(folder / "model.safetensors"),
    ],
)
def test_the_hash_covers_all_that_loading_may_read(cached, spoil):
    entry = f"sha256:{hash_model(cached)}"
    allowed_model(NAMED, [entry])
    spoil(cached)
    hash_model.cache_clear()
    with pytest.raises(NotAllowedError):
        allowed_model(NAMED, [entry])


def test_what_loading_does_not_read_is_not_covered(cached):
    before = hash_model(cached)
    (cached / "README.md").write_text("news")
    (cached / "training_args.bin").write_bytes(b"\0")
    hash_model.cache_clear()
    assert hash_model(cached) == before


def test_a_server_does_not_learn_what_is_here(cached):
    told = set()
    for name in ("someone/tiny", "someone/else"):
        with pytest.raises(NotAllowedError) as failed:
            allowed_model(Model(name_or_path=name), [ANYTHING])
        told.add(str(failed.value).replace(name, "NAME"))
    assert len(told) == 1


def test_a_name_does_not_allow_any_revision():
    by_name = ["someone/tiny", "other/one@v1"]
    assert allowed_model(NAMED, by_name) == NAMED
    pinned = Model(name_or_path="other/one", revision="v1")
    assert allowed_model(pinned, by_name) == pinned
    for name, revision in (
        ("someone/tiny", "refs/pr/7"),
        ("someone/tiny", "../../../../etc/hostname"),
        ("other/one", "v2"),
        ("other/one", None),
        ("other/one@v1", None),
    ):
        with pytest.raises(NotAllowedError):
            allowed_model(Model(name_or_path=name, revision=revision), [*by_name, ANYTHING])


def test_a_folder_of_the_working_folder_is_no_hub_name(asked, tiny_model_folder, tmp_path):
    folder = tmp_path / "someone" / "mine"
    shutil.copytree(tiny_model_folder("qwen3"), folder)
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        with pytest.raises(NotAllowedError):
            allowed_model(Model(name_or_path="someone/mine"), [f"sha256:{hash_model(folder)}"])
    finally:
        os.chdir(before)


def _set(file, key, *values):
    said = json.loads(file.read_text()) if file.is_file() else {}
    said[key] = values[-1]
    file.write_text(json.dumps(said))


def _append(file):
    with file.open("ab") as stream:
        stream.write(b"\0")
