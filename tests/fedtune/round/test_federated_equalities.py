"""Real training through the real apps: what must be equal is equal to the bit.

Not proven here: equality with a plain TRL run (tests/fedtune/training), and across machines.
"""

import pytest
import torch
from left_by_a_run import adapter_bytes, eval_records
from safetensors.torch import load_file
from toy_federation import ShuffledTransport

from fedtune.messages import wire
from fedtune.messages.message import ArrayRecord, MetricRecord
from fedtune.records.events import RunStoppedError
from fedtune.simulation import client

DROPOUT = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.2}


def test_n_clients_with_equal_data_and_order_are_one_client(tiny_recipe, run):
    # With dropout, so that a client's own random numbers would show.
    adapters = []
    for num_clients in (1, 3):
        recipe = tiny_recipe(
            lora=DROPOUT,
            data={"partition": {"by": "replicate"}},
            federation={"num_clients": num_clients, "num_rounds": 2},
        )
        adapters.append(adapter_bytes(run(recipe)))
    assert adapters[0] == adapters[1]


def test_the_order_in_which_clients_run_is_irrelevant(tiny_recipe, run):
    recipe = tiny_recipe(lora=DROPOUT, outer={"name": "nesterov"})
    in_turn = run(recipe)
    transport = ShuffledTransport(client.app, 4, seed=3)
    shuffled = run(recipe, transport=transport)
    assert transport.order != sorted(transport.order)
    assert adapter_bytes(in_turn) == adapter_bytes(shuffled)
    assert eval_records(in_turn) == eval_records(shuffled)


def test_equal_seeds_give_equal_bytes_and_other_seeds_others(tiny_recipe, run):
    sections = {"lora": DROPOUT, "attack": {"name": "gaussian", "num_attackers": 1}}
    short = {"num_rounds": 2, "clients_per_round": 3}
    first, again = (run(tiny_recipe(federation=short, **sections)) for _ in range(2))
    other = run(tiny_recipe(federation={**short, "seed": 1}, **sections))
    assert adapter_bytes(first) == adapter_bytes(again)
    assert eval_records(first) == eval_records(again)
    assert adapter_bytes(first) != adapter_bytes(other)


def test_the_adapter_on_disk_is_the_last_rounds_anchor(tiny_recipe, run):
    folder = run(tiny_recipe(federation={"num_rounds": 1}))
    saved = load_file(folder.adapter / "adapter_model.safetensors")
    anchor = load_file(folder.checkpoints / "round-0001" / "state.safetensors")["anchor"]
    flat = torch.cat([saved[name].flatten() for name in sorted(saved)])
    assert torch.equal(flat, anchor)
    assert flat.abs().sum() > 0


def test_real_clients_cannot_move_the_model_by_what_they_report(tiny_recipe, run, lying):
    def boast(content):
        names = list(content.array_records[wire.DELTA])
        arrays = content.array_records[wire.DELTA]
        content[wire.DELTA] = ArrayRecord({name: arrays[name] for name in reversed(names)})
        content[wire.METRICS] = MetricRecord({"train_loss": 1e30, "num-examples": 10**9})
        content.config_records[wire.ABOUT]["num-examples"] = 10**9
        return content

    recipe = tiny_recipe(federation={"num_rounds": 2})
    honest = run(recipe)
    boastful = run(recipe, app=lying(boast, liars={0, 2}))
    assert adapter_bytes(honest) == adapter_bytes(boastful)
    assert boastful.read_metrics()[-1]["clients"]["2"]["train_loss"] == 1e30


def test_a_run_among_faulty_clients_equals_one_without_them(tiny_recipe, run, lying):
    # Client 1 fails in every round, as if it were silent: the rest is bitwise the same.
    def fail(content):
        raise RuntimeError("the power is gone")

    recipe = tiny_recipe(federation={"num_rounds": 2})
    folder = run(recipe, app=lying(fail, liars={1}))
    refused = [line["refused"] for line in folder.read_metrics()[1:]]
    assert refused == [{"1": "the client failed: RuntimeError: the power is gone"}] * 2

    def poison(content):
        content[wire.DELTA] = ArrayRecord({})
        return content

    other = run(recipe, app=lying(poison, liars={1}))
    assert adapter_bytes(folder) == adapter_bytes(other)
    assert adapter_bytes(folder) != adapter_bytes(run(recipe))


def test_a_client_with_another_base_is_left_out_and_the_run_ends(tiny_recipe, run, lying):
    def other_base(content):
        content.config_records[wire.ABOUT]["base_hash"] = "0" * 64
        return content

    folder = run(
        tiny_recipe(federation={"num_rounds": 1}), app=lying(other_base, liars={3}, kind="query")
    )
    reason = folder.read_metrics()[-1]["refused"]["3"]
    assert reason.startswith("base_hash differs: need ")
    assert reason.endswith("got 000000000000")


def test_a_run_that_stops_says_why_and_goes_on_when_the_fault_is_gone(tiny_recipe, run, lying):
    # The trimmed mean at f=1 needs 3 of 4; from round 2 on clients 0 and 2 fail.
    rounds = []

    def fail_later(content):
        rounds.append(content.config_records[wire.ABOUT]["round"])
        if rounds[-1] >= 2:
            raise OSError("disk full")
        return content

    sections = {
        "aggregator": {"name": "trimmed_mean", "f": 1},
        "outer": {"name": "nesterov", "momentum": 0.9},
        "federation": {"max_retries": 1, "inner_optimizer": "keep"},
    }
    undisturbed = run(tiny_recipe(**sections))

    recipe = tiny_recipe(**sections)
    with pytest.raises(RunStoppedError) as stopped:
        run(recipe, app=lying(fail_later, liars={0, 2}))
    text = str(stopped.value)
    assert "round 2 got too few good replies in 2 tries" in text
    assert "trimmed_mean needs n >= 2f + 1: got n=2, f=1; lower f or wait for 3 clients." in text
    assert "client 0: the client failed: OSError: disk full" in text
    assert "client 2: the client failed: OSError: disk full" in text

    folder, recipe = run.folder_of(recipe, number=2)
    assert not folder.adapter.exists()
    assert [line["round"] for line in folder.read_metrics()] == [0, 1]
    run.resume(recipe, folder)
    assert adapter_bytes(folder) == adapter_bytes(undisturbed)
    assert eval_records(folder) == eval_records(undisturbed)
