"""fedtune from Python: typed results, typed errors, and what the command line calls.

Not proven here: the bits of a run (test_federated_equalities), a live view in a notebook.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fedtune
from fedtune.records.events import Refused, RoundFinished

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


@pytest.fixture
def tiny(tiny_model_folder, small_data, tmp_path):
    """A recipe as a mapping: 3 clients, 2 rounds, 1 step."""
    return {
        "model": {"name_or_path": str(tiny_model_folder("llama")), "device": "cpu"},
        "lora": {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]},
        "data": {"source": str(small_data("jsonl")), "partition": {"min_rows": 4}},
        "train": {"learning_rate": 1e-2, "per_device_train_batch_size": 4, "max_length": 32},
        "federation": {"num_clients": 3, "num_rounds": 2, "local_steps": 1},
        "aggregator": {"name": "mean"},
        "evaluation": {"samples": 0, "per_client": False, "max_rows": 8},
        "output_dir": str(tmp_path / "run"),
    }


def test_import_fedtune_loads_nothing_heavy():
    code = "import sys, fedtune; print(*(m for m in ('torch', 'flwr', 'trl') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    assert set(fedtune.__all__) <= {name for name in fedtune.__all__ if hasattr(fedtune, name)}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fedtune.nothing


def test_a_run_returns_what_it_left(tiny):
    seen = []
    result = fedtune.run(tiny, on_event=seen.append, federation={"num_rounds": 1})
    assert isinstance(result, fedtune.RunResult)
    assert result.recipe.federation.num_rounds == 1
    assert result.recipe.federation.num_clients == 3  # a section is laid over key by key
    assert [type(event) for event in seen].count(RoundFinished) == 1
    lines = (result.folder / "metrics.jsonl").read_text().splitlines()
    assert result.base == json.loads(lines[0])["eval"]
    assert result.final == json.loads(lines[1])["eval"]
    assert result.final["loss"] != result.base["loss"]
    assert (result.adapter / "adapter_model.safetensors").is_file()
    assert result.refused == {}
    again = fedtune.run(tiny, federation={"num_rounds": 1})
    assert again.folder.name == "run-2"  # what is there stays
    assert again.final == result.final


def test_who_is_refused_is_told_by_round(tiny):
    seen = []
    attack = {"name": "nan", "num_attackers": 1}
    result = fedtune.run(tiny, on_event=seen.append, attack=attack)
    refused = {(event.round, event.client) for event in seen if isinstance(event, Refused)}
    assert {(r, c) for r, clients in result.refused.items() for c in clients} == refused
    assert len(refused) == 2


def test_a_loaded_recipe_takes_no_more_sections(tiny):
    loaded = fedtune.load_recipe(tiny, lora={"r": 3})
    assert (loaded.lora.r, loaded.lora.lora_alpha) == (3, 4)
    with pytest.raises(TypeError, match="lora: lay them over the recipe when it is loaded"):
        fedtune.run(loaded, lora={"r": 4})


def test_what_is_wrong_is_raised_before_a_folder_is_made(tiny, tmp_path):
    with pytest.raises(fedtune.RecipeError, match="num_rownds"):
        fedtune.run(tiny, federation={"num_rownds": 1})
    with pytest.raises(fedtune.RecipeError, match="nowhere"):
        fedtune.run(tiny, data={"source": str(tmp_path / "nowhere.jsonl")})
    assert not (tmp_path / "run").exists()
    assert isinstance(fedtune.check(fedtune.load_recipe(tiny)), list)


def test_a_run_that_stops_is_resumed_to_the_same_figures(tiny, tmp_path):
    def interrupt(event):
        if isinstance(event, RoundFinished) and event.record.round == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fedtune.run(tiny, on_event=interrupt)
    resumed = fedtune.resume(tmp_path / "run")
    whole = fedtune.run(tiny, output_dir=str(tmp_path / "whole"))
    assert resumed.final == whole.final
    with pytest.raises(FileNotFoundError):
        fedtune.resume(tmp_path / "nothing")


def test_stages_return_a_result_each(tiny):
    stages = [{"name": "first"}, {"name": "second", "federation": {"num_rounds": 1}}]
    result = fedtune.run(tiny, stages=stages)
    assert isinstance(result, fedtune.StagesResult)
    assert list(result.stages) == ["first", "second"]
    assert len(result.stages["second"].records) == 2
    assert result.stages["second"].base == result.stages["first"].final


def test_an_adapter_is_measured_and_merged(tiny, tmp_path):
    result = fedtune.run(tiny)
    measured = fedtune.evaluate(result.folder)
    assert measured.adapter.as_dict()["loss"] == result.final["loss"]
    with pytest.raises(ValueError, match="stands alone"):
        fedtune.evaluate(result.adapter.rename(tmp_path / "alone"))
    (tmp_path / "alone").rename(result.adapter)
    merged = fedtune.merge(result.folder, tmp_path / "merged")
    assert (merged / "config.json").is_file()


@pytest.mark.slow
def test_the_examples_of_the_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) == 2
    scope: dict[str, object] = {}
    for example in examples:
        exec(example, scope)
    assert scope["result"].final["loss"] < scope["result"].base["loss"]
