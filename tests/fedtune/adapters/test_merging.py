"""Adapters on layers that share weights: the merged folder is base + adapter, or is not there.

Head and embedding are one tensor in all of these models. Not proven here: other weights that some
architectures share; what they would make of it is refused by the logits.
"""

import math

import pytest
import torch

from fedtune.adapters import lora, merging, saved
from fedtune.adapters.logits import check_logits, some_logits, some_rows
from fedtune.recipe import Lora, Model
from fedtune.training.merge import merge_adapter

pytestmark = pytest.mark.filterwarnings("ignore:.*tie.*", "ignore:.*tied.*")

SECTIONS = {
    "embedding": {"target_modules": "embed"},
    "embedding and attention": {"target_modules": "embed attn"},
    "head": {"target_modules": "head"},
    "both": {"target_modules": "embed head"},
    "embedding, head whole": {"target_modules": "attn", "modules_to_save": ["lm_head"]},
    "embedding whole": {"target_modules": "attn", "modules_to_save": "embed"},
}
NAMES = {
    "llama": {"embed": "embed_tokens", "attn": "q_proj", "head": "lm_head"},
    "gpt2": {"embed": "wte", "attn": "c_attn", "head": "lm_head"},
}


def attached(folder, section, dtype=None):
    """A base with a drawn adapter that changes its logits."""
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype or torch.float32)
    model = lora.attach(base, Lora(r=4, **section), task_type="CAUSAL_LM", seed=0).eval()
    drawn = torch.Generator().manual_seed(1)
    lora.write(
        model,
        {
            name: part + 0.3 * torch.randn(part.shape, generator=drawn)
            for name, part in lora.read(model).items()
        },
    )
    return model


def section_of(architecture, name):
    names = NAMES[architecture]
    section = dict(SECTIONS[name])
    section["target_modules"] = [names[each] for each in section["target_modules"].split()]
    if section.get("modules_to_save") == "embed":
        section["modules_to_save"] = [names["embed"]]
    return section


@pytest.mark.parametrize("architecture", NAMES)
@pytest.mark.parametrize("name", SECTIONS)
def test_a_merge_of_tied_weights_is_base_and_adapter(
    tiny_model_folder, tmp_path, architecture, name
):
    from transformers import AutoModelForCausalLM

    folder = tiny_model_folder(architecture)
    model = attached(folder, section_of(architecture, name))
    expected = some_logits(model, some_rows(model))
    lora.save(model, tmp_path / "adapter")
    section = Model(name_or_path=str(folder), device="cpu")
    merge_adapter(tmp_path / "adapter", section, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(
        some_logits(merged, some_rows(model)), expected, rtol=1e-5, atol=1e-4
    )
    tied = merged.get_input_embeddings().weight is merged.get_output_embeddings().weight
    assert merged.config.tie_word_embeddings == tied


def test_a_merge_that_differs_leaves_no_folder(tiny_model_folder, tmp_path, monkeypatch):
    """As it was before tied weights were parted: the embedding's change ended up in the head."""
    from transformers import LlamaForCausalLM

    folder = tiny_model_folder("llama")
    lora.save(attached(folder, section_of("llama", "embedding")), tmp_path / "adapter")
    section = Model(name_or_path=str(folder), device="cpu")
    monkeypatch.setattr(merging, "_part", lambda model: None)
    with pytest.raises(ValueError, match=r"the merged model gives other logits .* it was not kept"):
        merge_adapter(tmp_path / "adapter", section, tmp_path / "merged")
    monkeypatch.undo()
    # Likewise where only what is on disk differs.
    save = LlamaForCausalLM.save_pretrained

    def save_another(model, path):
        model.model.norm.weight.data *= 2
        save(model, path)
        model.model.norm.weight.data /= 2

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", save_another)
    with pytest.raises(ValueError, match="what was written of the merged model gives other logits"):
        merge_adapter(tmp_path / "adapter", section, tmp_path / "merged")
    assert [each.name for each in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["embedding and attention", "embedding, head whole"])
@pytest.mark.parametrize("architecture", NAMES)
def test_a_saved_adapter_is_held_against_plain_peft(
    tiny_model_folder, tmp_path, architecture, name, dtype
):
    model = attached(tiny_model_folder(architecture), section_of(architecture, name), dtype)
    trained = [part.requires_grad for part in model.parameters()]
    before = some_logits(model, some_rows(model))
    weights = [part.clone() for part in model.parameters()]
    lora.save(model, tmp_path)
    # To look is to change nothing: the twin shares the weights of the base.
    assert all(map(torch.equal, weights, model.parameters()))
    assert torch.equal(some_logits(model, some_rows(model)), before)
    assert [part.requires_grad for part in model.parameters()] == trained
    tensors = lora.read(model)
    last = max(each for each in tensors if "lora_" in each)
    lora.write(model, {**tensors, last: tensors[last] + 1})
    with pytest.raises(ValueError, match=f"plain PEFT loads another {last} than was trained"):
        saved.check_saved(model, tmp_path)


def test_an_embedding_is_tried_on_the_tokens_that_it_moved(tiny_model_folder):
    model = attached(tiny_model_folder("llama"), section_of("llama", "embedding"))
    tensors = lora.read(model)
    (name,) = [each for each in tensors if "lora_embedding_A" in each]
    tensors[name] = torch.zeros_like(tensors[name])
    tensors[name][:, 77] = 1.0
    lora.write(model, tensors)
    assert 77 in some_rows(model)


def test_a_folder_that_scales_otherwise_is_another_adapter(tiny_model_folder, tmp_path):
    """Each tensor is right; what they are multiplied by is not."""
    model = attached(tiny_model_folder("llama"), {"target_modules": ["q_proj"]})
    lora.save(model, tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 16', '"lora_alpha": 32'))
    with pytest.raises(ValueError, match=r"what plain PEFT loads of .* gives other logits"):
        saved.check_saved(model, tmp_path)


def test_logits_of_a_ruined_model_are_passed_over():
    ruined = torch.full((1, 2, 3), math.nan)
    check_logits(ruined, ruined, "it")
    expected = torch.tensor([1.0, math.inf, 2.0])
    check_logits(torch.tensor([1.0, 5.0, 2.0]), expected, "it")
    for found in (torch.tensor([1.5, math.inf, 2.0]), torch.tensor([1.0, 5.0, math.nan])):
        with pytest.raises(ValueError, match="it gives other logits"):
            check_logits(found, expected, "it")
