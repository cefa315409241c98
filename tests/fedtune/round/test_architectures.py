"""n clients with equal rows end as one client does, whatever they train: 27 architectures.

One client is trained by TRL on a tiny random model; the server's round is run on copies of what it
sends. What counts is what the model says: its logits, not the factors. Not proven here: what a
pretrained model's spectrum would do to the recompression.
"""

import pytest
import torch

from fedtune.adapters.logits import some_logits, some_rows
from fedtune.recipe import Model, parse_recipe
from fedtune.training.adapted import adapted_modules, no_product
from fedtune.training.merge import merge_adapter
from fedtune.training.worker import Worker
from tests.helpers.architectures import CONFIGS, save_tiny
from tests.helpers.product_server import Round

EXPERTS = {"mixtral", "deepseek_v3"}  # all-linear is their fused experts too
TARGETS = {"mamba": ["x_proj", "in_proj"]}  # no other of its modules takes an adapter


def trained_by_one(folder, source, **section):
    """A worker, and what one of its clients sends: factors, and what is trained whole."""
    recipe = parse_recipe(
        {
            "model": {"name_or_path": str(folder), "device": "cpu", "dtype": "float32"},
            "lora": {"r": 2, "lora_alpha": 8, **section},
            "data": {"source": str(source)},
            "train": {
                "max_length": 48,
                "learning_rate": 1e-2,
                "per_device_train_batch_size": 4,
                "gradient_checkpointing": False,
            },
            "federation": {"num_clients": 2, "local_steps": 4},
            "aggregator": {"name": "mean", "geometry": "factors"},
        }
    )
    worker = Worker(recipe)
    return worker, worker.trainer.train(worker.initial, client=0, round_=1).delta


def as_rounds_end(worker, rows, geometry, **aggregator):
    """The anchor after a round on these rows."""
    raw = worker.recipe.model_dump(mode="json")
    raw["aggregator"] = {"name": "mean", "geometry": geometry, **aggregator}
    raw["federation"] |= {"num_clients": len(rows), "clients_per_round": len(rows)}
    server = Round(parse_recipe(raw), worker.initial, worker.layout)
    server.run(rows)
    assert not server.refused
    return server.outer.anchor


def said(worker, row):
    worker.write(row)
    return some_logits(worker.model, some_rows(worker.model))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("architecture", CONFIGS)
def test_equal_clients_are_one_client(architecture, tiny_tokenizer, small_data, tmp_path):
    folder = save_tiny(architecture, tiny_tokenizer, tmp_path / "base")
    section = {"target_modules": TARGETS.get(architecture, "all-linear")}
    worker, delta = trained_by_one(folder, small_data("jsonl"), **section)
    base, one = said(worker, worker.initial), said(worker, worker.initial + delta)
    moved = float((one - base).abs().max())
    assert moved > 1e-3  # else nothing would be held against anything

    raw = worker.recipe.model_dump(mode="json")
    product = parse_recipe({**raw, "aggregator": {"name": "mean", "geometry": "product"}})
    objection = no_product(product, adapted_modules(product))
    assert bool(objection) == (architecture in EXPERTS)
    geometries = ["factors"] if objection else ["factors", "product"]
    for geometry in geometries:
        for rule in ({"name": "mean"}, {"name": "capped_spectral", "f": 1}):
            ended = as_rounds_end(worker, [delta] * 4, geometry, **rule)
            torch.testing.assert_close(said(worker, ended), one, rtol=0, atol=1e-3 * moved)

    worker.save_adapter(worker.initial + delta, tmp_path / "adapter")
    merge_adapter(
        tmp_path / "adapter", Model(name_or_path=str(folder), device="cpu"), tmp_path / "m"
    )
