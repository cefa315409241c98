"""The recipes for a GPU, on small models of the same architecture and data of the same form.

Not proven here: the hub's own model and data, and what they take on a GPU.
"""

import pytest
import torch

from fedtune.recipe import load_recipe
from fedtune.records.folder import RunFolder
from fedtune.runs.checks.preflight import find_problems
from fedtune.runs.engines import execute

SHORT = [
    "federation.num_clients=5", "federation.num_rounds=1", "federation.local_steps=1",
    "data.partition.min_rows=2", "data.test_fraction=0.1", "evaluation.max_rows=4",
    "evaluation.samples=1", "evaluation.max_new_tokens=4", "model.device=cpu",
    "train.gradient_accumulation_steps=1",
]  # fmt: skip
RECIPES = {  # the form of the hub's data, and what else has to be small
    "qwen3-0.6b/sft": ("messages", ["train.max_length=128", "data.partition.column=topic"]),
    "qwen3-0.6b/dpo": ("pairs_messages_implicit", ["train.max_length=128"]),
    "qwen3-0.6b/grpo": ("prompt_completion", ["train.max_completion_length=8"]),
    "qwen3-8b/sft_4bit": ("messages", ["train.max_length=128", "data.partition.column=topic"]),
}


@pytest.fixture(scope="module")
def wide_qwen(tiny_model_folder, tmp_path_factory):
    """Qwen3 with widths of multiples of 64, as 4 bits ask for on a CPU."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    small, made = tiny_model_folder("qwen3"), tmp_path_factory.mktemp("wide-qwen3")
    config = AutoConfig.from_pretrained(small)
    config.hidden_size, config.intermediate_size, config.head_dim = 64, 128, 32
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(made)
    AutoTokenizer.from_pretrained(small).save_pretrained(made)
    return made


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_for_a_gpu_runs_on_a_small_model(
    name, tiny_model_folder, wide_qwen, small_data, tmp_path
):
    form, keys = RECIPES[name]
    model = wide_qwen if "4bit" in name else tiny_model_folder("qwen3")
    said = [
        f"model.name_or_path={model}", f"data.source={small_data('jsonl', form)}",
        f"output_dir={tmp_path / 'run'}", *SHORT, *keys,
    ]  # fmt: skip
    recipe = load_recipe(name, said)
    assert find_problems(recipe) == []
    folder, recipe = RunFolder.create(recipe)
    execute(recipe, folder)
    before, after = folder.read_metrics()[0], folder.read_metrics()[-1]
    if recipe.task == "grpo":  # random weights earn nothing, so there is nothing to learn from
        assert {"reward", "rewards/length", "rewards/format"} <= set(after["eval"])
        assert all("reward_std" in each["said"] for each in after["clients"].values())
    else:
        assert before["eval"]["loss"] != after["eval"]["loss"]
    assert after["refused"] == {}
    assert (folder.adapter / "adapter_model.safetensors").is_file()
