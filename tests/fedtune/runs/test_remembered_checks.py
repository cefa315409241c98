"""Which checks are remembered, by what, and what a damaged or closed cache does: nothing."""

import json
import stat

import pytest

from fedtune.recipe import load_recipe
from fedtune.runs.checks import remembered
from fedtune.runs.checks.remembered import keep, name_of, recall


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def name(*overrides):
    return name_of([load_recipe("quickstart", overrides)])


def test_what_was_kept_is_found_and_is_its_owners_alone(cache):
    assert recall(name()) is None
    keep(name(), ["one", "two"])
    assert recall(name()) == ["one", "two"]
    (file,) = (cache / "checks").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "override", ["train.learning_rate=0.5", "lora.r=4", "aggregator.f=2", "federation.seed=1"]
)
def test_another_recipe_is_not_remembered(override):
    keep(name(), [])
    assert name(override) != name()
    assert recall(name(override)) is None


def test_where_a_run_goes_changes_nothing():
    assert name("output_dir=elsewhere") == name()


def test_other_libraries_code_or_machine_are_not_remembered(monkeypatch):
    before = name()
    for what, other in (("version", lambda name: "0"), ("code_hash", str), ("machine", str)):
        with monkeypatch.context() as patched:
            patched.setattr(remembered, what, other)
            assert name() != before
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert name() != before


@pytest.mark.parametrize(
    "override",
    ["data.source=rows.jsonl", "model.name_or_path=owner/name", "initial_adapter=runs/other"],
)
def test_what_may_change_unseen_is_never_remembered(override):
    assert name(override) is None


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", "{}", '{"name": "other", "lines": []}', "[" * 100_000]
)
def test_a_damaged_file_is_ignored_and_written_again(cache, damage):
    keep(name(), ["one"])
    (file,) = (cache / "checks").iterdir()
    file.write_text(damage)
    assert recall(name()) is None
    file.write_text(json.dumps({"name": name(), "lines": [1]}))
    assert recall(name()) is None
    keep(name(), ["two"])
    assert recall(name()) == ["two"]


def test_a_cache_that_cannot_be_written_keeps_nothing(cache):
    cache.write_text("a file")
    keep(name(), ["one"])
    assert recall(name()) is None
