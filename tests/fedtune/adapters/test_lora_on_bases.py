"""Keys of the lora section on bases that they do not go with, and adapters that they tell apart."""

import pytest
import torch

from fedtune.adapters import lora
from fedtune.recipe import Lora, RecipeError, parse_recipe
from fedtune.recipe.hashing import hash_recipe
from fedtune.runs.adapter_of import find_adapter
from fedtune.training.adapted import adapted_modules

SIZES = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 2,
}  # fmt: skip


def test_an_orthogonal_start_is_the_base_or_refused(tiny_model_folder):
    """In bfloat16 the product of A and B is their rounding: logits of this model are 4e-3 off."""
    from transformers import AutoModelForCausalLM, MixtralConfig

    section = Lora(init_lora_weights="orthogonal")
    with pytest.raises(RecipeError, match=r"lora\.init_lora_weights: .* is 0 in float32 alone"):
        parse_recipe({"lora": section.model_dump(), "model": {"dtype": "bfloat16"}})
    base = AutoModelForCausalLM.from_pretrained(tiny_model_folder("gpt2"), dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"lora\.init_lora_weights: .* is 0 in float32 alone"):
        lora.attach(base, section, task_type="CAUSAL_LM", seed=0)
    experts = AutoModelForCausalLM.from_config(MixtralConfig(**SIZES))
    with pytest.raises(ValueError, match=r"PEFT cannot begin with orthogonal here.*write default"):
        lora.attach(experts, section, task_type="CAUSAL_LM", seed=0)


def test_a_base_that_lies_in_bfloat16_may_be_loaded_in_float32(tiny_model_folder, tmp_path):
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_model_folder("gpt2"), dtype=torch.bfloat16)
    base.save_pretrained(tmp_path)
    model = {"name_or_path": str(tmp_path), "device": "cpu", "dtype": "float32"}
    sections = {"lora": {"bias": "all"}, "aggregator": {"name": "mean"}}
    assert adapted_modules(parse_recipe({"model": model, **sections}))


def test_an_adapter_under_another_pattern_is_not_taken_for_a_recipes(tiny_model_folder, tmp_path):
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_model_folder("gpt2"))
    section = Lora(r=4, lora_alpha=8, alpha_pattern={"c_attn": 32})
    lora.save(lora.attach(base, section, task_type="CAUSAL_LM", seed=0), tmp_path)
    recipe = tmp_path / "other.yaml"
    recipe.write_text("lora: {r: 4, lora_alpha: 8}\n")
    with pytest.raises(ValueError, match=r"lora\.alpha_pattern: the adapter has .*c_attn"):
        find_adapter(tmp_path, str(recipe))


def test_a_key_that_is_not_set_leaves_a_hash_as_it_was():
    plain = hash_recipe(parse_recipe({}))
    assert hash_recipe(parse_recipe({"lora": {"bias": "none", "rank_pattern": {}}})) == plain
    assert hash_recipe(parse_recipe({"lora": {"bias": "all"}})) != plain
