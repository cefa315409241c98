"""Clients of different ranks in real runs: they learn, send less, are measured, and may be killed.

That a lower rank's round is a plain PEFT run of that rank: tests/fedtune/training. Not proven here:
how much a lower rank costs in loss.
"""

import pytest
from left_by_a_run import adapter_bytes, eval_records

from fedtune.adapters.ranks import narrow
from fedtune.messages import wire
from fedtune.records.folder import RunFolder
from fedtune.simulation import client
from fedtune.training.process import get_worker
from fedtune.transport.local import LocalTransport

RANKS = [2, 1, 2, 1]


def of_ranks(tiny_recipe, ranks, **sections):
    sections.setdefault("aggregator", {"name": "mean", "geometry": "product"})
    sections["lora"] = {"client_ranks": ranks, **sections.get("lora", {})}
    return tiny_recipe(**sections)


@pytest.mark.parametrize(
    "aggregator",
    [
        {"name": "mean"},
        {"name": "geometric_median", "f": 1, "mixing": ["nnm"]},
        {"name": "trimmed_mean", "f": 1, "combination": "dense"},
        {"name": "fltrust"},  # the server's own update is of rank r
    ],
    ids=lambda section: section["name"],
)
def test_a_run_learns_and_leaves_a_plain_adapter(tiny_recipe, run, aggregator):
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForCausalLM

    recipe = of_ranks(
        tiny_recipe,
        RANKS,
        aggregator={"geometry": "product", **aggregator},
        data={"server_rows": 8 if aggregator["name"] == "fltrust" else 0},
        federation={"num_rounds": 4, "local_steps": 4},
        evaluation={"per_client": True},
    )
    folder = run(recipe)
    records = folder.read_metrics()
    assert all(record["refused"] == {} for record in records[1:])
    assert records[-1]["eval"]["loss"] < records[0]["eval"]["loss"] - 0.1
    figures = records[-1]["client_eval"]
    assert list(figures) == ["0", "1", "2", "3"]
    assert all(figure["loss"] < records[0]["eval"]["loss"] for figure in figures.values())
    assert PeftConfig.from_pretrained(folder.adapter).r == 2
    base = AutoModelForCausalLM.from_pretrained(recipe.model.name_or_path)
    found = PeftModel.from_pretrained(base, folder.adapter).state_dict()
    assert {tensor.shape[0] for name, tensor in found.items() if "lora_A" in name} == {2}


def test_a_lower_rank_sends_and_is_sent_less(tiny_recipe, run):
    once = {"num_rounds": 1}
    mixed = run(of_ranks(tiny_recipe, RANKS, federation=once)).read_metrics()[-1]
    whole = run(of_ranks(tiny_recipe, [2] * 4, federation=once)).read_metrics()[-1]
    recipe = of_ranks(tiny_recipe, RANKS, federation=once)
    worker = get_worker(recipe.model_dump_json())
    saved = 4 * (worker.layout.size - narrow(worker.layout, 1).size)  # float32
    for key in ("upload_bytes", "download_bytes"):
        # Two clients save half their tensors; a shape of one digit less may save a byte of header.
        assert whole[key] - mixed[key] == pytest.approx(2 * saved, abs=64)


def test_a_reply_that_only_a_higher_rank_could_need_is_not_kept(tiny_recipe, run):
    class Padding(LocalTransport):
        """Clients 0 and 1 reply with a byte more than any good reply of rank 1."""

        def _reply_to(self, message):
            reply = super()._reply_to(message)
            if message.kind == "train" and message.node_id in (2, 3):
                order = message.content.config_records[wire.ORDER]
                narrowed = narrow(get_worker(str(order["recipe"])).layout, 1)
                missing = wire.max_reply_bytes(narrowed) + 1 - wire.count_bytes(reply)
                reply.content.config_records[wire.ABOUT]["more"] = bytes(missing - len("more"))
            return reply

    recipe = of_ranks(tiny_recipe, RANKS, federation={"num_rounds": 1, "max_retries": 0})
    refused = run(recipe, transport=Padding(client.app, 4)).read_metrics()[-1]["refused"]
    assert "more than any good one" in refused["1"]
    assert "word 'more' needs at most" in refused["0"]  # the screen has looked at it


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(tiny_recipe, run, forked):
    recipe = of_ranks(
        tiny_recipe,
        RANKS,
        lora={"lora_dropout": 0.1},
        aggregator={"name": "centered_clipping", "geometry": "product", "residual": "carry"},
        federation={"inner_optimizer": "keep", "clients_per_round": 3},
        outer={"name": "nesterov", "momentum": 0.5},
        evaluation={"per_client": True},
    )
    whole = run(recipe)
    folder, _ = RunFolder.create(recipe)
    assert forked(folder, kill_at_touch=80)["killed"]
    assert 1 < len(folder.read_metrics()) < 4
    folder, recipe = RunFolder.open(folder.path)
    run.resume(recipe, folder)
    assert adapter_bytes(folder) == adapter_bytes(whole)
    assert eval_records(folder) == eval_records(whole)
