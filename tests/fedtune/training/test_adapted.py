"""Modules and sizes known without weights are those of the adapter that is then trained.

Not proven here: models that transformers builds otherwise than from their configuration.
"""

import pytest

from fedtune.adapters.ranks import side_of
from fedtune.training.adapted import adapted_modules, trained_parameters


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"target_modules": "all-linear", "use_rslora": True, "lora_dropout": 0.1},
        {"target_modules": ".*(q_proj|c_attn|embed_tokens|wte)", "modules_to_save": ["lm_head"]},
        {"target_modules": ".*(q_proj|c_attn|embed_tokens|wte)"},
    ],
    ids=["all linear", "other keys", "embedding saved whole with the head", "embedding"],
)
@pytest.mark.filterwarnings("ignore:.*tie.*", "ignore:.*fan_in_fan_out.*")
def test_they_are_the_trained_adapters(make_worker, architecture, lora):
    worker = make_worker(architecture, lora=lora)
    found = {}
    for name, tensor in worker.layout.unflatten(worker.initial).items():
        if (place := side_of(name)) is not None:
            module, side = place
            found.setdefault(module.removeprefix("base_model.model."), {})[side] = tensor
    expected = {
        module: (len(pair["b"]), pair["a"].shape[1], len(pair["a"]), not pair["a"].any())
        for module, pair in found.items()
    }
    assert adapted_modules(worker.recipe) == expected
    assert trained_parameters(worker.recipe) == worker.layout.size
    embeddings = [module for module, pair in found.items() if not pair["a"].any()]
    assert len(embeddings) == ("embed_tokens" in str(lora) and "lm_head" not in str(lora))
