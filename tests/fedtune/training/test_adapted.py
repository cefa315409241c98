"""Modules and sizes known without weights are those of the adapter that is then trained.

Not proven here: models that transformers builds otherwise than from their configuration.
"""

import pytest

from fedtune.adapters.ranks import side_of
from fedtune.training.adapted import adapted_modules


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"target_modules": "all-linear", "use_rslora": True, "lora_dropout": 0.1},
        {"target_modules": ".*(q_proj|c_attn|embed_tokens|wte)", "modules_to_save": ["lm_head"]},
    ],
    ids=["all linear", "other keys", "embedding and head"],
)
@pytest.mark.filterwarnings("ignore:.*tie.*", "ignore:.*fan_in_fan_out.*")
def test_they_are_the_trained_adapters(make_worker, architecture, lora):
    worker = make_worker(architecture, lora=lora)
    sizes = {}
    for name, shape in worker.layout.shapes:
        if (found := side_of(name)) is not None:
            module, side = found
            module = module.removeprefix("base_model.model.")
            sizes.setdefault(module, {})[side] = shape[1] if side == "a" else shape[0]
    expected = {module: (size["b"], size["a"]) for module, size in sizes.items()}
    assert adapted_modules(worker.recipe) == expected
