"""Modules and sizes known without weights are those of the adapter that is then trained.

Not proven here: models that transformers builds otherwise than from their configuration.
"""

import re

import pytest

from fedtune.adapters.ranks import side_of
from fedtune.recipe import parse_recipe
from fedtune.records.events import RunStoppedError
from fedtune.records.folder import RunFolder
from fedtune.runs.checks import tried
from fedtune.runs.checks.risks import _bare
from fedtune.runs.engines import execute
from fedtune.training.adapted import (
    adapted_modules,
    left_bare,
    modules_of,
    no_product,
    trained_parameters,
)
from tests.helpers.architectures import save_tiny

FUSED = r"mlp\.experts\S* holds experts in one tensor: its A has \d+ rows at rank \d+"


@pytest.fixture(scope="module")
def mixtral(tiny_tokenizer, tmp_path_factory):
    """A recipe on four experts in one tensor, but for its aggregator."""
    folder = save_tiny("mixtral", tiny_tokenizer, tmp_path_factory.mktemp("mixtral"))
    return {
        "model": {"name_or_path": str(folder), "device": "cpu"},
        "lora": {"r": 1},
        "evaluation": {"samples": 0},
    }


@pytest.mark.parametrize("section", [{}, {"name": "krum"}, {"name": "mean", "geometry": "product"}])
def test_no_product_are_refused_in_products_written_or_not(mixtral, section):
    """At r = 1 as well, where no number of the recipe's is another than A's."""
    recipe = parse_recipe({**mixtral, "aggregator": section})
    assert recipe.aggregator.geometry == "product"
    said = no_product(recipe, adapted_modules(recipe))
    assert re.search(FUSED, said)
    assert "write geometry: factors under aggregator, or leave the experts out" in said
    assert tried._ranks(recipe) == [said]  # which is what check says


@pytest.mark.parametrize(("architecture", "bare"), [("deepseek_v3", 6), ("llama", 0), ("gpt2", 0)])
def test_what_all_linear_leaves_without_an_adapter_is_said(
    architecture, bare, tiny_tokenizer, tmp_path
):
    """Of a model of two layers, whose first is dense where the others have experts."""
    folder = save_tiny(architecture, tiny_tokenizer, tmp_path / architecture)
    raw = {"model": {"name_or_path": str(folder), "device": "cpu"}, "aggregator": {"name": "mean"}}
    recipe = parse_recipe({**raw, "lora": {"target_modules": "all-linear"}})
    assert len(left_bare(recipe)) == bare
    notes = list(_bare(recipe))
    assert len(notes) == (1 if bare else 0)
    if notes:
        assert "leaves 6 linear layers of the model without an adapter: model.lay" in notes[0]
        assert "model.layers.0.mlp.down_proj" in notes[0]
    listed = parse_recipe({**raw, "lora": {"target_modules": ["c_attn", "o_proj"]}})
    assert left_bare(listed) == []


def test_no_product_have_adapters_in_factors_and_without_them_in_products(mixtral):
    factors = parse_recipe({**mixtral, "aggregator": {"geometry": "factors"}})
    assert no_product(factors, adapted_modules(factors)) is None
    others = {"r": 1, "target_modules": ["q_proj", "v_proj"]}
    product = parse_recipe({**mixtral, "lora": others})
    assert no_product(product, adapted_modules(product)) is None


def test_a_run_refuses_them_as_well(mixtral, small_data, tmp_path):
    """What check says of the model without weights holds for the one that is loaded."""
    source = {"source": str(small_data("jsonl"))}
    recipe = parse_recipe({**mixtral, "data": source, "output_dir": str(tmp_path / "run")})
    with pytest.raises(RunStoppedError, match=FUSED) as stopped:
        execute(recipe, RunFolder.enter(recipe))
    assert not stopped.value.resumable


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
        module: (len(pair["b"]), pair["a"].shape[1], 4, 4, not pair["a"].any())
        for module, pair in found.items()
    }
    assert adapted_modules(worker.recipe) == modules_of(worker.model) == expected
    assert trained_parameters(worker.recipe) == worker.layout.size
    embeddings = [module for module, pair in found.items() if not pair["a"].any()]
    assert len(embeddings) == ("embed_tokens" in str(lora) and "lm_head" not in str(lora))
