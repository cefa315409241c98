"""The adapter that a path means: a run's or a folder's own, whole or refused with its name."""

import pytest

from fedtune.runs.adapter_of import base_of, find_adapter


@pytest.fixture
def adapter(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_model.safetensors").touch()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "nano", "r": 8}')
    return folder


def test_a_run_and_its_adapter_mean_the_same(adapter):
    assert find_adapter(adapter) == find_adapter(adapter.parent)
    assert base_of(find_adapter(adapter)) == "nano"


def test_a_damaged_config_is_named(adapter):
    (adapter / "adapter_config.json").write_text('{"r": 8, "base')
    with pytest.raises(ValueError, match=r"adapter_config\.json is damaged"):
        base_of(find_adapter(adapter))
    with pytest.raises(ValueError, match=r"adapter_config\.json is damaged"):
        find_adapter(adapter, "quickstart")
