"""A merged model is the base with the adapter, to float32's own rounding."""

import pytest
import torch

from fedtune.adapters import lora
from fedtune.recipe import Lora, Model
from fedtune.training.base import load_base
from fedtune.training.merge import merge_adapter

IDS = torch.arange(5, 45).view(2, 20)


@pytest.fixture
def adapter(tiny_model_folder, tmp_path):
    """The logits of base + adapter in float32, and the adapter's folder."""
    base = load_base(Model(name_or_path=str(tiny_model_folder("llama")), device="cpu"))
    model = lora.attach(base.model, Lora(r=4), task_type="CAUSAL_LM", seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    drawn = {
        name: 0.05 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in lora.read(model).items()
    }
    lora.write(model, drawn)
    lora.save(model, tmp_path / "adapter")
    with torch.no_grad():
        return model(IDS).logits, tmp_path / "adapter"


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16", "float16"])
def test_a_merged_model_has_the_adapters_logits_whatever_the_recipe_computes_in(
    adapter, tiny_model_folder, tmp_path, dtype
):
    from transformers import AutoModelForCausalLM

    logits, folder = adapter
    section = Model(name_or_path=str(tiny_model_folder("llama")), device="cpu", dtype=dtype)
    merge_adapter(folder, section, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.dtype == torch.float32
    with torch.no_grad():
        # W + s BA is rounded once to float32 before it is used: not to the bit.
        torch.testing.assert_close(merged(IDS).logits, logits, rtol=1e-5, atol=1e-5)


def test_a_folder_that_holds_something_is_left_alone(adapter, tiny_model_folder, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"cat")
    section = Model(name_or_path=str(tiny_model_folder("llama")), device="cpu")
    with pytest.raises(FileExistsError, match="is not empty; name another folder"):
        merge_adapter(adapter[1], section, tmp_path / "photos")
