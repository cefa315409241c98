"""Which code computes attention: what is not here is refused, by the code that loads.

Not proven here: that flash attention computes what it should; no such device is at hand.
"""

import pytest
import torch

from fedtune.recipe import Model, load_recipe
from fedtune.runs.checks.tried import problems_when_tried
from fedtune.training.attention import attention_of
from fedtune.training.base import load_base
from fedtune.training.skeleton import build_skeleton

CUDA = torch.device("cuda")


def keys(name, **where):
    from transformers import AutoModelForCausalLM, LlamaConfig

    where = {"device": torch.device("cpu"), "dtype": torch.float32, **where}
    section = Model(attn_implementation=name)
    return attention_of(section, LlamaConfig(), AutoModelForCausalLM, **where)


def test_a_model_computes_attention_as_it_is_told():
    ids = torch.arange(3, 19)[None]
    logits = []
    for name in ("eager", "sdpa"):
        base = load_base(Model(attn_implementation=name))
        assert base.model.config._attn_implementation == name
        logits.append(base.model(input_ids=ids).logits)
    # The same sums in another order: float32.
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)
    assert keys(None) == {}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("flash_attention_2", "needs a CUDA device; got cpu"),
        ("flex_attention", "does not train on cpu"),
    ],
)
def test_check_and_the_load_refuse_what_this_device_cannot(name, reason):
    recipe = load_recipe("quickstart", [f"model.attn_implementation={name}", "model.device=cpu"])
    (problem,) = problems_when_tried(recipe)
    assert problem.startswith(f"model.attn_implementation: {name} {reason}")
    with pytest.raises(ValueError, match=reason):
        load_base(recipe.model)


def test_what_an_architecture_does_not_offer_is_refused(tmp_path):
    from transformers import BloomConfig

    BloomConfig(hidden_size=8, n_layer=1, n_head=1, vocab_size=16).save_pretrained(tmp_path)
    section = Model(name_or_path=str(tmp_path), attn_implementation="sdpa")
    with pytest.raises(ValueError, match="BloomForCausalLM does not offer sdpa; write eager"):
        build_skeleton(section)
    eager = build_skeleton(section.model_copy(update={"attn_implementation": "eager"}))
    assert eager.config._attn_implementation == "eager"


def test_no_kernel_is_fetched_in_the_place_of_a_package(monkeypatch):
    from transformers import LlamaForCausalLM

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    where = {"device": CUDA, "dtype": torch.bfloat16}
    with pytest.raises(ValueError, match="needs its package, which is not installed"):
        keys("flash_attention_2", **where)
    with pytest.raises(ValueError, match="needs CUDA's compute capability"):
        keys("flash_attention_4", **where)
    kernels = ["kernels-community/some"]
    monkeypatch.setattr(LlamaForCausalLM, "_compatible_flash_implementations", kernels)
    with pytest.raises(ValueError, match="does not offer flash_attention_2"):
        keys("flash_attention_2", **where)
